//! Every character of every value of an evidence file altered, one at a time, and random damage.

use crate::fixture::{World, world};
use meshchain_core::Evidence;
use proptest::prelude::*;
use serde_json::Value;

/// Exit code for a file's bytes; 2 where they are not evidence.
fn exit_code(world: &World, json: &[u8]) -> u8 {
    match Evidence::from_json(json) {
        Ok(evidence) => World { evidence, ..world.clone() }.verify().exit_code,
        Err(_) => 2,
    }
}

/// The paths of all values that are not containers.
fn scalars(value: &Value, path: String, found: &mut Vec<String>) {
    match value {
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, v)| scalars(v, format!("{path}/{i}"), found));
        }
        Value::Object(fields) => {
            fields.iter().for_each(|(k, v)| scalars(v, format!("{path}/{k}"), found));
        }
        _ => found.push(path),
    }
}

/// `text` with one character replaced by another of its kind.
fn flips(text: &str) -> impl Iterator<Item = String> + '_ {
    text.char_indices().map(|(at, c)| {
        let other = if c == '0' { '1' } else { '0' };
        format!("{}{other}{}", &text[..at], &text[at + c.len_utf8()..])
    })
}

#[test]
fn no_altered_character_is_verified() {
    // One span and the anchor: the other spans have the same fields.
    let mut world = world();
    world.evidence.spans.truncate(1);
    let json: Value = serde_json::from_str(&world.evidence.to_json().unwrap()).unwrap();
    assert_eq!(exit_code(&world, json.to_string().as_bytes()), 0);
    let mut paths = Vec::new();
    scalars(&json, String::new(), &mut paths);
    let mut codes = [0u32; 3];
    for path in &paths {
        let value = json.pointer(path).unwrap();
        let altered: Vec<Value> = match value {
            Value::String(text) => flips(text).map(Value::String).collect(),
            Value::Number(n) => {
                let n = n.as_u64().unwrap();
                [n + 1, n ^ (1 << 40)].map(Value::from).to_vec()
            }
            other => panic!("{path}: {other}"),
        };
        for altered in altered {
            let mut json = json.clone();
            *json.pointer_mut(path).unwrap() = altered.clone();
            let code = exit_code(&world, json.to_string().as_bytes());
            assert_ne!(code, 0, "{path}: {altered}");
            // What an anchor holds proves the anchor, and nothing if it is altered; its proof of
            // consistency is about the spans.
            let anchor = path.starts_with("/anchors/") && !path.contains("/consistency/");
            assert!(code == 2 || !anchor, "{path}: {altered}");
            codes[usize::from(code)] += 1;
        }
    }
    assert!(codes[1] > 1900, "{} fields, exit codes {codes:?}", paths.len());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn random_damage_never_panics_and_never_verifies(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..4u8, any::<u8>()), 1..4),
        printable in any::<bool>(),
    ) {
        let world = world();
        let mut json = world.evidence.to_json().unwrap().into_bytes();
        for (at, kind, byte) in edits {
            let at = at.index(json.len());
            let byte = if printable { b' ' + byte % 95 } else { byte };
            match kind {
                0 => json[at] = byte,
                1 => json.insert(at, byte),
                2 => drop(json.remove(at)),
                _ => json.swap(at, usize::from(byte)),
            }
        }
        let same = Evidence::from_json(&json).is_ok_and(|evidence| evidence == world.evidence);
        prop_assert!(same || exit_code(&world, &json) != 0);
    }

    #[test]
    fn random_bytes_in_binary_fields_never_panic_and_never_verify(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        field in 0..5u8,
        at in any::<prop::sample::Index>(),
    ) {
        let mut world = world();
        let good = world.evidence.clone();
        let (span, anchor) = (&mut world.evidence.spans[0], &mut world.evidence.anchors[0]);
        let field = match field {
            0 => &mut span.leaf,
            1 => &mut span.entry,
            2 => &mut anchor.header,
            3 => &mut anchor.receipt_proof[0],
            _ => &mut anchor.receipt_proof[1],
        };
        let at = at.index(field.len());
        field.splice(at.., bytes);
        prop_assert!(world.evidence == good || world.verify().exit_code != 0);
    }
}
