//! Every vector file against core, and against encoders and trees that are not core's.

use meshchain_core::context::TraceHeaders;
use meshchain_core::equivocation::Equivocation;
use meshchain_core::hash::log_id;
use meshchain_core::hop::{Room, Seen};
use meshchain_core::session::{Signed, session_id};
use meshchain_core::session_header::SessionHeader;
use meshchain_core::target::{canonical_authority, canonical_path};
use meshchain_core::tlog_checkpoint::TreeHead;
use meshchain_core::{
    BatchHeader, BatchLeaf, Canonical, Checkpoint, Entry, Evidence, HopPart, OwnPart, SessionKey,
    SpanId, SpanRecord, TlogProof, TraceId, VerifierKey, hop, leaf, merkle, note, own,
};
use meshchain_tests::vector::{self, Vector, bytes, hash, hashes, plain_hex};
use meshchain_tests::{cases, naive, proto, receipt};
use meshchain_wire::Batch;
use prost::Message;
use serde_json::{Value, json};
use std::collections::BTreeMap;

mod stored;

#[test]
fn every_file_holds_and_every_format_has_good_and_bad_cases() {
    let mut seen: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for vector in vector::load() {
        let format = vector.json["format"].as_str().expect("a format").to_owned();
        assert!(vector.name.starts_with(&format!("{format}-")), "{}: named otherwise", vector.name);
        let valid = vector.json["valid"].as_bool().expect("valid is a boolean");
        assert_eq!(valid, vector.json.get("error").is_none(), "{}", vector.name);
        check(&format, &vector);
        let count = seen.entry(format).or_default();
        if valid { count.0 += 1 } else { count.1 += 1 }
    }
    for (format, (good, bad)) in seen {
        assert!(good > 0, "{format} has no good case");
        // Nothing is refused about a hash or a canonical value, and the wire message is any protobuf.
        let all_good =
            ["log", "log-id", "chain", "batch", "path", "authority"].contains(&format.as_str());
        assert!(bad > 0 || all_good, "{format} has no bad case");
    }
}

#[test]
fn the_files_are_those_that_the_generator_writes() {
    let mut made = cases::all();
    made.sort_by(|a, b| a.name.cmp(&b.name));
    let there = vector::load();
    let names = |all: &[Vector]| all.iter().map(|v| v.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&there), names(&made), "run: cargo run -p meshchain-tests --bin vectors");
    for (there, made) in there.iter().zip(&made) {
        assert_eq!(there.json, made.json, "{}", made.name);
        let text = std::fs::read_to_string(vector::folder().join(format!("{}.json", made.name)));
        assert_eq!(text.unwrap(), made.print(), "{}: printed otherwise", made.name);
    }
}

#[test]
fn a_call_that_two_meshes_show_otherwise_has_one_digest() {
    let same: Vec<_> =
        vector::load().into_iter().filter(|v| v.name.starts_with("hop-same-")).collect();
    assert!(same.len() > 2);
    for pair in same.windows(2) {
        assert_ne!(pair[0].json["input"], pair[1].json["input"]);
        assert_eq!(pair[0].json["digests"], pair[1].json["digests"], "{}", pair[1].name);
    }
}

fn check(format: &str, vector: &Vector) {
    let (name, json) = (&vector.name, &vector.json);
    let input = &json["input"];
    let expected = match json["error"].as_str() {
        Some(error) => Err(error.to_owned()),
        None => Ok(()),
    };
    let encoded = json["encoded"].as_str().map(|_| plain_hex(&json["encoded"])).unwrap_or_default();
    let text = json["text"].as_str().unwrap_or_default();
    let verdict = match format {
        "path" => table(json, |given, room| canonical_path(given, room).to_vec()),
        "authority" => table(json, |given, room| canonical_authority(given, room).to_vec()),
        "session" => session(json),
        "session-header" => session_header(json),
        "equivocation" => equivocation(json),
        "context" => context(json),
        "hop" => hop_part(json, &encoded),
        "own" => own_part(json, &encoded),
        "record" => record(json, &encoded),
        "entry" => entry(json, &encoded),
        "header" => header(json, &encoded),
        "chain" => chain(json),
        "leaf" => batch_leaf(json, &encoded),
        "batch" => batch(json, &encoded),
        "log" => log(json),
        "log-id" => {
            let origin = input["origin"].as_str().unwrap();
            assert_eq!(log_id(origin), naive::sha256(&[b"meshchain/log/v1\0", origin.as_bytes()]));
            assert_eq!(log_id(origin), hash(&json["digests"]["log_id"]));
            Ok(())
        }
        "inclusion" => {
            let head =
                TreeHead { size: input["size"].as_u64().unwrap(), root: hash(&input["root"]) };
            let (index, leaf) = (input["index"].as_u64().unwrap(), hash(&input["leaf_hash"]));
            merkle::verify_inclusion(index, &leaf, &hashes(&input["proof"]), &head)
                .map_err(|e| e.to_string())
        }
        "consistency" => {
            let head = |size: &str, root: &str| TreeHead {
                size: input[size].as_u64().unwrap(),
                root: hash(&input[root]),
            };
            let (old, new) = (head("old_size", "old_root"), head("new_size", "new_root"));
            merkle::verify_consistency(&old, &new, &hashes(&input["proof"]))
                .map_err(|e| e.to_string())
        }
        "tile-name" => stored::tile_name(json, text),
        "bundle" => stored::bundle(json, &encoded),
        "entries-page" => stored::entries_page(json, &encoded),
        "note" => note::open(text, &verifier(json))
            .map(|opened| assert_eq!(opened, json["opened"], "{name}"))
            .map_err(|e| e.to_string()),
        "checkpoint" => Checkpoint::open(text, &verifier(json))
            .map(|c| {
                let root = hex::encode(c.head.root);
                let there = json!({"origin": c.origin, "size": c.head.size, "root": root});
                assert_eq!(there, json["checkpoint"], "{name}");
            })
            .map_err(|e| e.to_string()),
        "tlog-proof" => TlogProof::parse(text)
            .map(|proof| {
                assert_eq!(proof.index, input["index"].as_u64().unwrap(), "{name}");
                assert_eq!(proof.path, hashes(&input["path"]), "{name}");
                assert_eq!(proof.checkpoint, input["checkpoint"], "{name}");
                assert!(text.contains("extra ") || proof.to_string() == text, "{name}");
            })
            .map_err(|e| e.to_string()),
        "evidence" => evidence(json),
        "staging-bundle" => stored::staging_bundle(json, &encoded),
        "sealed" => stored::sealed(json, text),
        "session-table" => stored::session_table(json, &encoded),
        "audit-line" => stored::audit_line(json, text),
        other => panic!("{name}: nothing checks the format {other}"),
    };
    assert_eq!(verdict, expected, "{name}");
}

/// What core makes of the encoding; where it reads it, the encoding is that of `other` too.
fn read<'a, T: Canonical<'a>>(
    encoded: &'a [u8],
    other: impl FnOnce() -> Vec<u8>,
) -> Result<T, String> {
    let message = T::decode(encoded).map_err(|e| e.to_string())?;
    assert_eq!(hex::encode(message.encode()), hex::encode(encoded), "core writes otherwise");
    assert_eq!(hex::encode(other()), hex::encode(encoded), "prost writes otherwise");
    Ok(message)
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

fn verifier(json: &Value) -> VerifierKey {
    VerifierKey::parse(json["input"]["verifier_key"].as_str().unwrap()).unwrap()
}

/// Each given value has its canonical form, which is its own.
fn table(json: &Value, rule: impl Fn(&[u8], &mut Vec<u8>) -> Vec<u8>) -> Result<(), String> {
    let list = |value: &Value| value.as_array().unwrap().iter().map(bytes).collect::<Vec<_>>();
    let (given, canonical) = (list(&json["input"]["given"]), list(&json["canonical"]));
    assert_eq!(given.len(), canonical.len());
    let mut room = Vec::new();
    for (given, canonical) in given.iter().zip(canonical) {
        assert_eq!(rule(given, &mut room), canonical, "{}", given.escape_ascii());
        assert_eq!(rule(&canonical, &mut room), canonical, "{}", given.escape_ascii());
    }
    Ok(())
}

fn session(json: &Value) -> Result<(), String> {
    let input = &json["input"];
    let (public_key, chain) = (hash(&input["public_key"]), hash(&input["chain"]));
    let signature = plain_hex(&input["signature"]).try_into().unwrap();
    if input.get("seed").is_some() {
        let key = SessionKey::from_seed(hash(&input["seed"]));
        assert_eq!((*key.public(), key.sign(&chain)), (public_key, signature));
    }
    let id = naive::sha256(&[b"meshchain/session/v1\0", &public_key])[..16].to_vec();
    assert_eq!(id, session_id(&public_key));
    assert_eq!(id, plain_hex(&json["digests"]["session"]));
    Signed { public_key, chain, signature }.verify().map_err(|e| e.to_string())
}

fn session_header(json: &Value) -> Result<(), String> {
    let value = json["input"]["value"].as_str().unwrap();
    let header = SessionHeader::parse(value.as_bytes()).ok_or("not a session header")?;
    assert_eq!(cases::session::shown(&header), json["header"]);
    assert_eq!(header.write(), value.as_bytes());
    Ok(())
}

fn equivocation(json: &Value) -> Result<(), String> {
    let bytes = serde_json::to_vec(&json["input"]).unwrap();
    let proof = Equivocation::from_json(&bytes).map_err(|e| {
        // serde_json's own words name a column, which depends on the order of keys.
        e.to_string().split(" at line").next().unwrap_or_default().to_owned()
    })?;
    let proven = proof.check().map_err(|e| e.to_string())?;
    assert_eq!(hex::encode(proven.session), json["proven"]["session"]);
    assert_eq!(json!(proven.chains.map(hex::encode)), json["proven"]["chains"]);
    assert_eq!(proven.seq, number(&json["proven"]["seq"]));
    Ok(())
}

fn context(json: &Value) -> Result<(), String> {
    let mut headers = TraceHeaders::default();
    for pair in json["input"]["headers"].as_array().unwrap() {
        headers.take(pair[0].as_str().unwrap().as_bytes(), pair[1].as_str().unwrap().as_bytes());
    }
    let context = headers.context().ok_or("no context")?;
    let there = &json["context"];
    assert_eq!(context.trace_id.0, plain_hex(&there["trace_id"])[..]);
    assert_eq!(context.span_id.0, plain_hex(&there["span_id"])[..]);
    let parent = context.parent_span_id.map(|id| hex::encode(id.0));
    assert_eq!(json!(parent), there["parent_span_id"]);
    assert_eq!(context.sampling as u64, number(&there["sampling"]));
    Ok(())
}

fn hop_part(json: &Value, encoded: &[u8]) -> Result<(), String> {
    let input = &json["input"];
    let [request_id, method, authority, target] =
        ["request_id", "method", "authority", "target"].map(|key| bytes(&input[key]));
    let read = read::<HopPart>(encoded, || {
        let path = target.split(|b| b"?#".contains(b)).next().unwrap_or_default();
        let path = canonical_path(path, &mut Vec::new()).to_vec();
        let authority = canonical_authority(&authority, &mut Vec::new()).to_vec();
        let mut request_id = request_id.clone();
        if request_id.len() == 36 {
            request_id[14] = b'4';
        }
        let texts = [&request_id, &method, &authority, &path];
        let mut overflow = Vec::new();
        if texts.iter().any(|t| t.len() > 1024) {
            let framed = texts.map(|t| [&(t.len() as u32).to_be_bytes(), t.as_slice()].concat());
            overflow = naive::sha256(&[b"meshchain/overflow/v1\0", &framed.concat()]).to_vec();
        }
        let [request_id, method, authority, path] =
            texts.map(|t| t.iter().copied().take(1024).collect());
        proto::HopPart {
            trace_id: bytes(&input["trace_id"]),
            span_id: bytes(&input["span_id"]),
            request_id,
            method,
            authority,
            path,
            status: number(&input["status"]) as u32,
            overflow,
        }
        .encode_to_vec()
    })?;
    let trace_id = bytes(&input["trace_id"]).try_into().ok().and_then(TraceId::new);
    let span_id = bytes(&input["span_id"]).try_into().ok().and_then(SpanId::new);
    let status = number(&input["status"]) as u32;
    let seen =
        Seen { request_id: &request_id, method: &method, authority: &authority, target: &target };
    let mut room = Room::default();
    assert_eq!(HopPart::capture(trace_id, span_id, &seen, status, &mut room), read);
    let digest = hash(&json["digests"]["hop"]);
    assert_eq!(hop::hop_digest(encoded), digest);
    assert_eq!(naive::sha256(&[b"meshchain/hop/v1\0", encoded]), digest);
    Ok(())
}

fn own_part(json: &Value, encoded: &[u8]) -> Result<(), String> {
    let i = &json["input"];
    let own = read::<OwnPart>(encoded, || {
        let header =
            |h: &Value| proto::HeaderField { name: bytes(&h["name"]), value: bytes(&h["value"]) };
        proto::OwnPart {
            side: number(&i["side"]) as i32,
            parent_span_id: bytes(&i["parent_span_id"]),
            sampling: number(&i["sampling"]) as i32,
            context: number(&i["context"]) as i32,
            protocol: bytes(&i["protocol"]),
            grpc_status_plus_one: number(&i["grpc_status_plus_one"]),
            response_flags: number(&i["response_flags"]),
            code_details: bytes(&i["code_details"]),
            start_ns: number(&i["start_ns"]),
            duration_ns: number(&i["duration_ns"]),
            request_bytes: number(&i["request_bytes"]),
            response_bytes: number(&i["response_bytes"]),
            peer_principal: bytes(&i["peer_principal"]),
            cluster: bytes(&i["cluster"]),
            route: bytes(&i["route"]),
            attempts: number(&i["attempts"]) as u32,
            query: bytes(&i["query"]),
            salt: bytes(&i["salt"]),
            headers: i["headers"].as_array().unwrap().iter().map(header).collect(),
            raw_path: bytes(&i["raw_path"]),
            raw_authority: bytes(&i["raw_authority"]),
            peer_session: bytes(&i["peer_session"]),
        }
        .encode_to_vec()
    })?;
    assert_eq!(own.side as u64, number(&i["side"]));
    assert_eq!(own.grpc_status.map_or(0, |s| u64::from(s) + 1), number(&i["grpc_status_plus_one"]));
    assert_eq!(own.peer_principal, bytes(&i["peer_principal"]));
    assert_eq!(own.duration_ns, number(&i["duration_ns"]));
    let (hop_digest, digest) = (hash(&i["hop_digest"]), hash(&json["digests"]["span"]));
    assert_eq!(own::span_digest(&hop_digest, encoded), digest);
    assert_eq!(naive::sha256(&[b"meshchain/span/v1\0", &hop_digest, encoded]), digest);
    Ok(())
}

fn record(json: &Value, encoded: &[u8]) -> Result<(), String> {
    let i = &json["input"];
    let record = read::<SpanRecord>(encoded, || {
        proto::SpanRecord {
            hop: bytes(&i["hop"]),
            own: bytes(&i["own"]),
            path_hash: bytes(&i["path_hash"]),
            path_dropped: i["path_dropped"].as_bool().unwrap(),
        }
        .encode_to_vec()
    })?;
    assert_eq!(
        (record.hop, record.own),
        (bytes(&i["hop"]).as_slice(), bytes(&i["own"]).as_slice())
    );
    Ok(())
}

fn entry(json: &Value, encoded: &[u8]) -> Result<(), String> {
    let entry = Entry::parse(encoded).map_err(|e| e.to_string())?;
    let i = &json["input"];
    let parts = ["trace_id", "span_id", "hop_digest", "span_digest"].map(|key| plain_hex(&i[key]));
    let drawn = [vec![1, number(&i["side"]) as u8], parts.concat()].concat();
    assert_eq!(drawn, encoded);
    assert_eq!(entry.to_bytes().as_slice(), encoded);
    assert_eq!(entry.span_digest, hash(&i["span_digest"]));
    Ok(())
}

fn header(json: &Value, encoded: &[u8]) -> Result<(), String> {
    let i = &json["input"];
    let header = read::<BatchHeader>(encoded, || {
        let name = |key: &str| i["source"][key].as_str().unwrap().to_owned();
        let source = proto::Source {
            mesh: name("mesh"),
            cluster: name("cluster"),
            namespace: name("namespace"),
            workload: name("workload"),
            pod: name("pod"),
            revision: name("revision"),
            filter: name("filter"),
        };
        let drop = |d: &Value| proto::Dropped {
            reason: number(&d["reason"]) as u32,
            count: number(&d["count"]),
        };
        let drops = |d: &Value| d.as_array().unwrap().iter().map(drop).collect::<Vec<_>>();
        let previous = |p: &Value| proto::Previous {
            session: bytes(&p["session"]),
            batches: number(&p["batches"]),
            dropped: drops(&p["dropped"]),
            public_key: bytes(&p["public_key"]),
            signature: bytes(&p["signature"]),
        };
        let notices = i["notices"].as_array().unwrap().iter().map(|n| n.as_str().unwrap().into());
        proto::BatchHeader {
            version: number(&i["version"]) as u32,
            kind: number(&i["kind"]) as i32,
            source: Some(source).filter(|s| *s != proto::Source::default()),
            session: bytes(&i["session"]),
            seq: number(&i["seq"]),
            count: number(&i["count"]) as u32,
            dropped: drops(&i["dropped"]),
            first_ns: number(&i["first_ns"]),
            last_ns: number(&i["last_ns"]),
            notices: notices.collect(),
            previous: Some(&i["previous"]).filter(|p| !p.is_null()).map(previous),
        }
        .encode_to_vec()
    })?;
    assert_eq!(header.kind as u64, number(&i["kind"]));
    assert_eq!((header.seq, u64::from(header.count)), (number(&i["seq"]), number(&i["count"])));
    assert_eq!(header.source.pod, i["source"]["pod"]);
    assert_eq!(header.source.filter, i["source"]["filter"]);
    let previous = header.previous.as_ref().map(|p| p.batches);
    assert_eq!(previous, i["previous"]["batches"].as_u64());
    assert_eq!(json!(header.notices), i["notices"]);
    Ok(())
}

/// 90-byte entries as leaf hashes, by the second tree.
fn entries_root(entries: &[u8]) -> [u8; 32] {
    naive::mth(&entries.chunks_exact(90).map(naive::leaf).collect::<Vec<_>>())
}

fn chain(json: &Value) -> Result<(), String> {
    let mut prev = [0; 32];
    let batches = json["input"]["batches"].as_array().unwrap();
    let chains = hashes(&json["digests"]["chain"]);
    let roots = hashes(&json["digests"]["entries_root"]);
    assert_eq!((batches.len(), batches.len()), (chains.len(), roots.len()));
    for ((batch, chain), root) in batches.iter().zip(chains).zip(roots) {
        let (header, entries) = (bytes(&batch["header"]), bytes(&batch["entries"]));
        let digest = naive::sha256(&[&entries]);
        assert_eq!(naive::sha256(&[b"meshchain/chain/v1\0", &prev, &digest, &header]), chain);
        assert_eq!(leaf::chain_of(&prev, &header, &digest), chain);
        assert_eq!(leaf::chain_hash(&prev, &header, &entries), chain);
        assert_eq!(entries_root(&entries), root);
        assert_eq!(merkle::root(&leaf::entry_hashes(&entries)), root);
        prev = chain;
    }
    Ok(())
}

fn batch_leaf(json: &Value, encoded: &[u8]) -> Result<(), String> {
    let i = &json["input"];
    BatchLeaf::decode(encoded)
        .map_err(|e| e.to_string())?
        .signed()
        .verify()
        .map_err(|e| e.to_string())?;
    let leaf = read::<BatchLeaf>(encoded, || {
        proto::BatchLeaf {
            version: number(&i["version"]) as u32,
            header: bytes(&i["header"]),
            prev: bytes(&i["prev"]),
            chain: bytes(&i["chain"]),
            entries_root: bytes(&i["entries_root"]),
            principal: bytes(&i["principal"]),
            received_ns: number(&i["received_ns"]),
            public_key: bytes(&i["public_key"]),
            signature: bytes(&i["signature"]),
        }
        .encode_to_vec()
    })?;
    let entries = bytes(&i["entries"]);
    assert!(leaf.holds(&entries));
    assert_eq!(leaf.entries_root, entries_root(&entries));
    assert_eq!(merkle::leaf_hash(encoded), hash(&json["digests"]["leaf"]));
    assert_eq!(naive::leaf(encoded), hash(&json["digests"]["leaf"]));
    Ok(())
}

fn batch(json: &Value, encoded: &[u8]) -> Result<(), String> {
    let i = &json["input"];
    let batch = Batch::decode(encoded).map_err(|e| e.to_string())?;
    assert_eq!(batch.encode_to_vec(), encoded);
    assert_eq!((&batch.header, &batch.prev), (&bytes(&i["header"]), &bytes(&i["prev"])));
    assert_eq!((&batch.chain, &batch.entries), (&bytes(&i["chain"]), &bytes(&i["entries"])));
    let records: Vec<_> = i["records"].as_array().unwrap().iter().map(bytes).collect();
    assert_eq!(batch.records, records);
    assert_eq!(batch.public_key, bytes(&i["public_key"]));
    let prev = batch.prev.as_slice().try_into().unwrap();
    let chain = leaf::chain_hash(&prev, &batch.header, &batch.entries);
    assert_eq!(chain.to_vec(), batch.chain);
    let public_key = batch.public_key.as_slice().try_into().unwrap();
    let signature = batch.signature.as_slice().try_into().unwrap();
    Signed { public_key, chain, signature }.verify().map_err(|e| e.to_string())?;
    let header = BatchHeader::decode(&batch.header).map_err(|e| e.to_string())?;
    assert_eq!(header.session, session_id(&public_key));
    for (record, entry) in records.iter().zip(batch.entries.chunks_exact(90)) {
        let record = SpanRecord::decode(record).map_err(|e| e.to_string())?;
        assert_eq!(record.check(&Entry::parse(entry).unwrap()), Ok(()));
    }
    Ok(())
}

fn log(json: &Value) -> Result<(), String> {
    let leaves: Vec<_> =
        json["input"]["leaves"].as_array().unwrap().iter().map(plain_hex).collect();
    let (theirs, ours): (Vec<_>, Vec<_>) =
        leaves.iter().map(|l| (naive::leaf(l), merkle::leaf_hash(l))).unzip();
    let sizes = json["input"]["sizes"].as_array().unwrap().iter().map(|n| number(n) as usize);
    for (size, root) in sizes.zip(hashes(&json["digests"]["roots"])) {
        assert_eq!(naive::mth(&theirs[..size]), root, "{size} leaves");
        assert_eq!(merkle::root(&ours[..size]), root, "{size} leaves");
    }
    Ok(())
}

fn evidence(json: &Value) -> Result<(), String> {
    let text = json["evidence"].to_string();
    let evidence = match Evidence::from_json(text.as_bytes()) {
        Err(meshchain_core::evidence::EvidenceError::Json(_)) => Err("not an evidence file".into()),
        other => other.map_err(|e| e.to_string()),
    }?;
    let printed = evidence.to_json().unwrap();
    // What may be absent is written all the same.
    let mut whole = json["evidence"].clone();
    let anchors = whole.as_object_mut().unwrap().entry("anchors").or_insert_with(|| json!([]));
    for anchor in anchors.as_array_mut().unwrap() {
        anchor.as_object_mut().unwrap().entry("consistency").or_insert_with(|| json!([]));
    }
    assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), whole);
    receipt::check(&evidence, &verifier(json))
}
