//! The program: exit codes, output, hostile files.

use crate::fixture::{World, world};
use crate::server::{serve, serve_with};
use meshchain_core::evidence::MAX_LEN;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new(world: &World) -> Self {
        let files = Self { folder: tempfile::tempdir().unwrap() };
        files.write("evidence.json", world.evidence.to_json().unwrap());
        files.write("policy.json", world.policy.to_string());
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        run(args, self.folder.path())
    }
}

fn run(args: &[&str], folder: &Path) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshchain"));
    let Output { status, stdout, stderr } =
        command.args(args).current_dir(folder).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[test]
fn a_proof_of_equivocation_is_judged_alone() {
    let files = Files::new(&world());
    for (vector, code, text) in [
        ("two-for-one-place", 0, "verified: equivocation: whoever holds the key of session"),
        ("same-batch", 1, "refuted: the two batches are the same"),
        ("altered-signature", 1, "refuted: batch 2: the signature"),
    ] {
        let path = format!("../tests/vectors/equivocation-{vector}.json");
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        files.write("proof.json", json["input"].to_string());
        let (got, stdout, _) = files.run(&["verify", "proof.json"]);
        assert_eq!(got, code, "{stdout}");
        assert!(stdout.contains(text), "{stdout}");
        let (got, stdout, _) = files.run(&["verify", "proof.json", "--json"]);
        let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!((got, &report["exit_code"]), (code, &code.into()));
        assert_eq!(report["seq"].as_u64(), (code == 0).then_some(7));
    }
}

#[test]
fn a_verdict_that_cannot_be_printed_is_none_and_that_is_said() {
    let world = world();
    let files = Files::new(&world);
    let hash = format!("31337:{}", world.hashes[0]);
    for json in [&[][..], &["--json"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let done = Command::new(env!("CARGO_BIN_EXE_meshchain"))
            .args(["verify", "evidence.json", "--policy", "policy.json", "--header-hash", &hash])
            .args(json)
            .current_dir(files.folder.path())
            .stdout(full)
            .output()
            .unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(2), "{said}");
        assert!(said.contains("cannot print the verdict: No space left"), "{said}");
    }
}

#[test]
fn exit_codes_are_those_of_the_verdict() {
    let world = world();
    let files = Files::new(&world);
    let hash = format!("31337:{}", world.hashes[0]);
    let policy = ["--policy", "policy.json"];
    let known = ["--header-hash", hash.as_str()];
    let other = format!("1:{}", world.hashes[0]);
    let of_another = ["--header-hash", other.as_str()];
    let cases: [(&[&str], i32, &str); 5] = [
        (&[], 2, "no policy"),
        (&policy, 2, "look up block 12"),
        (&[policy, of_another].concat(), 2, "this block's hash was given for chain 1; look up"),
        (&known, 2, "no policy"),
        (&[policy, known].concat(), 0, "verified: 3 spans stand unaltered"),
    ];
    for (more, code, text) in cases {
        let args = [&["verify", "evidence.json"], more].concat();
        let (got, stdout, _) = files.run(&args);
        assert_eq!(got, code, "{args:?}: {stdout}");
        assert!(stdout.contains(text), "{args:?}: {stdout}");
    }
    let mut bad = world.evidence.clone();
    bad.spans[0].leaf[100] ^= 1;
    files.write("evidence.json", bad.to_json().unwrap());
    let (code, stdout, _) = files.run(&["verify", "evidence.json", "--policy", "policy.json"]);
    assert_eq!(code, 1, "{stdout}");
    assert!(stdout.contains("REFUTED"));
}

#[test]
fn output_and_help_are_those_in_the_committed_files() {
    let world = world();
    let files = Files::new(&world);
    let hash = format!("31337:{}", world.hashes[0]);
    let verified =
        ["verify", "evidence.json", "--policy", "policy.json", "--header-hash", hash.as_str()];
    let cases: [(&[&str], &str); 5] = [
        (&["--help"], "help.txt"),
        (&["verify", "--help"], "help_verify.txt"),
        (&["evidence", "--help"], "help_evidence.txt"),
        (&verified, "verified.txt"),
        (&["verify", "evidence.json"], "no_policy.txt"),
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/output");
    for (args, name) in cases {
        let (_, stdout, _) = files.run(args);
        if std::env::var_os("UPDATE_OUTPUT").is_some() {
            std::fs::write(folder.join(name), &stdout).unwrap();
        }
        let committed = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert_eq!(stdout, committed, "{name}; UPDATE_OUTPUT=1 rewrites it");
    }
}

#[test]
fn json_is_one_object_whatever_happens() {
    let files = Files::new(&world());
    for (evidence, verdict) in [("evidence.json", "not_checked"), ("missing.json", "not_checked")] {
        let (code, stdout, _) = files.run(&["verify", evidence, "--json"]);
        let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!((report["exit_code"].as_i64(), code), (Some(2), 2));
        assert_eq!(report["verdict"], verdict);
        assert_eq!(report["format"], "meshchain/report/v1");
        assert!(!report["reasons"].as_array().unwrap().is_empty());
    }
}

#[test]
fn hostile_files_are_refused_with_a_reason() {
    let files = Files::new(&world());
    let escape = r#"{"\u001b[2J\u001b[1;32mverified": 1}"#;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", vec![]),
        ("null", b"null".to_vec()),
        ("not UTF-8", vec![0xff; 100]),
        ("deep arrays", vec![b'['; 1_000_000]),
        ("deep objects", br#"{"spans":"#.repeat(100_000)),
        ("too large", vec![b' '; MAX_LEN + 1]),
        ("wrong types", br#"{"format": 1, "trace_id": [], "spans": {}}"#.to_vec()),
        (
            "other format",
            br#"{"format": "x", "trace_id": "80808080808080808080808080808080", "spans": []}"#
                .to_vec(),
        ),
        ("terminal control", escape.as_bytes().to_vec()),
    ];
    for (name, bytes) in cases {
        files.write("hostile", &bytes);
        for args in [
            &["verify", "hostile", "--policy", "policy.json"][..],
            &["verify", "evidence.json", "--policy", "hostile"],
        ] {
            let (code, stdout, stderr) = files.run(args);
            assert_eq!(code, 2, "{name}: {stdout}{stderr}");
            assert!(stdout.starts_with("NOT VERIFIED") && stdout.len() > 40, "{name}: {stdout}");
            assert!(stdout.bytes().all(|b| b == b'\n' || (b' '..=b'~').contains(&b)), "{name}");
        }
    }
    for path in [".", "missing"] {
        assert_eq!(files.run(&["verify", path, "--policy", "policy.json"]).0, 2);
        assert_eq!(files.run(&["verify", "evidence.json", "--policy", path]).0, 2);
    }
}

#[test]
fn strings_of_the_evidence_do_not_reach_the_terminal_raw() {
    let mut world = world();
    let proof = &mut world.evidence.spans[0].tlog_proof;
    *proof = proof.replace("\ncloud.example/meshchain\n", "\n\u{1b}[2Jverified\u{202e}\n");
    let files = Files::new(&world);
    for json in [&[][..], &["--json"]] {
        let (code, stdout, _) =
            files.run(&[&["verify", "evidence.json", "--policy", "policy.json"], json].concat());
        assert_ne!(code, 0);
        assert!(stdout.contains("x1b[2Jverified"), "{stdout}");
        assert!(stdout.bytes().all(|b| b == b'\n' || (b' '..=b'~').contains(&b)), "{stdout}");
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let files = Files::new(&world());
    for args in [
        &["verify"][..],
        &["verify", "evidence.json", "--header-hash", "0x12"],
        &["verify", "evidence.json", "--header-hash", &"00".repeat(32)],
        &["verify", "evidence.json", "--header-hash", &format!("+1:{}", "00".repeat(32))],
        &["verify", "evidence.json", "--header-hash", &format!(":{}", "00".repeat(32))],
        &["verify", "evidence.json", "--header-hash", &format!("1:{}", "00".repeat(31))],
        &[
            "verify",
            "evidence.json",
            "--rpc",
            "http://x",
            "--header-hash",
            &format!("1:{}", "00".repeat(32)),
        ],
        &["evidence", "xyz", "--collector", "http://127.0.0.1:1"],
        &["nothing"],
    ] {
        let (code, stdout, stderr) = files.run(args);
        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}");
        assert!(!stderr.is_empty());
    }
}

#[test]
fn a_collector_that_is_busy_is_asked_again_a_few_times() {
    let world = world();
    let json = world.evidence.to_json().unwrap();
    let files = Files::new(&world);
    let id = "80".repeat(16);
    for (busy, expected) in [(0, 0), (3, 0), (99, 2)] {
        let (asked, json) = (Arc::new(AtomicUsize::new(0)), json.clone());
        let count = asked.clone();
        let url = serve_with("retry-after: 0\r\n", move |_, _| {
            match count.fetch_add(1, Ordering::SeqCst) < busy {
                true => (503, br#"{"error": "too many reads wait for their turn"}"#.to_vec()),
                false => (200, json.clone().into_bytes()),
            }
        });
        let (code, _, stderr) =
            files.run(&["evidence", &id, "--collector", &url, "-o", &format!("{busy}.json")]);
        assert_eq!(code, expected, "{stderr}");
        let asked = asked.load(Ordering::SeqCst);
        assert!(asked == busy + 1 || (busy == 99 && (5..20).contains(&asked)), "{asked}");
    }
}

#[test]
fn evidence_is_fetched_and_written_whole() {
    let world = world();
    let json = world.evidence.to_json().unwrap();
    let id = "80".repeat(16);
    let url = serve(move |request, _| match request {
        r if r.starts_with("GET /v1/evidence/80808080808080808080808080808080 ") => {
            (200, json.clone().into_bytes())
        }
        r if r.contains("11111111") => (404, br#"{"error": "unknown trace"}"#.to_vec()),
        r if r.contains("22222222") => (200, json.clone().into_bytes()),
        r if r.contains("33333333") => (200, b"<html>".to_vec()),
        _ => (503, b"{\"error\": \"busy\x1b\"}".to_vec()),
    });
    let files = Files::new(&world);
    let (code, stdout, stderr) = files.run(&["evidence", &id, "--collector", &url]);
    assert_eq!(code, 0, "{stderr}");
    let name = format!("{id}.evidence.json");
    assert!(stdout.contains(&format!("meshchain verify {name} --policy")), "{stdout}");
    assert_eq!(
        std::fs::read(files.path(&name)).unwrap(),
        std::fs::read(files.path("evidence.json")).unwrap()
    );
    let slash = format!("{url}/");
    let (code, ..) = files.run(&["evidence", &id, "--collector", &slash, "-o", "x.json"]);
    assert_eq!((code, files.path("x.json").exists()), (0, true));
    for (digit, reason) in [
        ("1", "no record of this trace"),
        ("2", "evidence of trace 8080"),
        ("3", "something else"),
        ("4", "HTTP 503"),
    ] {
        let (code, _, stderr) =
            files.run(&["evidence", &digit.repeat(32), "--collector", &url, "-o", "y.json"]);
        assert_eq!(code, 2);
        assert!(stderr.contains(reason), "{stderr}");
        assert!(!files.path("y.json").exists());
    }
}
