//! `fsck`, `log show` and `log tail` as programs: output, exit codes, pipes.

use crate::grown::{Grown, batch};
use crate::server::serve;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

fn run(log: &Grown, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshchain"));
    let output = command.args(args).current_dir(log.folder.path()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn flip(log: &Grown, file: &str, at: usize) {
    let mut bytes = log.read(file);
    bytes[at] ^= 1;
    log.write(file, &bytes);
}

#[test]
fn output_and_help_are_those_in_the_committed_files() {
    let log = Grown::new(300, 40);
    let damaged = Grown::new(300, 40);
    flip(&damaged, "tile/0/000", 900);
    let pool = damaged.read(&damaged.pool_file(0));
    let entries = &damaged.batches[27].entries;
    let at = pool.windows(entries.len()).position(|w| w == entries).unwrap();
    flip(&damaged, &damaged.pool_file(0), at + 120);
    std::fs::remove_file(damaged.path(&damaged.pool_file(160))).unwrap();
    let vkey = log.vkey();
    let cases: [(&Grown, &[&str], &str); 10] = [
        (&log, &["fsck", "--help"], "help_fsck.txt"),
        (&log, &["log", "--help"], "help_log.txt"),
        (&log, &["log", "show", "--help"], "help_log_show.txt"),
        (&log, &["log", "tail", "--help"], "help_log_tail.txt"),
        (&log, &["mirror", "--help"], "help_mirror.txt"),
        (&log, &["fsck", ".", "--vkey", &vkey], "fsck_clean.txt"),
        (&log, &["fsck", "."], "fsck_no_key.txt"),
        (&damaged, &["fsck", ".", "--vkey", &vkey], "fsck_damaged.txt"),
        (&log, &["log", "show", "27", "--from", "."], "log_show.txt"),
        (&log, &["log", "tail", "--from", ".", "-n", "3"], "log_tail.txt"),
    ];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/output");
    for (log, args, name) in cases {
        let (_, stdout, stderr) = run(log, args);
        assert_eq!(stderr, "", "no progress where stderr is no terminal");
        if std::env::var_os("UPDATE_OUTPUT").is_some() {
            std::fs::write(folder.join(name), &stdout).unwrap();
        }
        let committed = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert_eq!(stdout, committed, "{name}; UPDATE_OUTPUT=1 rewrites it");
    }
}

#[test]
fn exit_codes_are_those_of_the_verdict() {
    let log = Grown::new(30, 10);
    let vkey = log.vkey();
    let policy = format!(
        r#"{{"format": "meshchain/policy/v1", "require_anchor": false,
            "logs": [{{"origin": "grown.example/meshchain", "vkey": "{vkey}"}}]}}"#
    );
    let outside = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(outside.path(), policy).unwrap();
    let policy = outside.path().to_str().unwrap();
    for (args, code) in [
        (&["fsck", ".", "--vkey", &vkey][..], 0),
        (&["fsck", ".", "--policy", policy], 0),
        (&["fsck", "."], 2),
        (&["fsck", "nowhere", "--vkey", &vkey], 2),
        (&["fsck", ".", "--vkey", "nonsense"], 2),
        (&["fsck", ".", "--policy", "nowhere"], 2),
        (&["fsck", ".", "--policy", policy, "--vkey", &vkey], 2),
        (&["fsck"], 2),
        (&["log", "show", "30", "--from", "."], 2),
        (&["log", "show", "29", "--from", "nowhere"], 2),
        (&["log", "tail", "--from", "http://127.0.0.1:1"], 2),
    ] {
        let (got, stdout, stderr) = run(&log, args);
        assert_eq!(got, code, "{args:?}: {stdout}{stderr}");
    }
    flip(&log, "tile/entries/000.p/30", 99);
    let (code, stdout, _) = run(&log, &["fsck", ".", "--vkey", &vkey, "--json"]);
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, report["exit_code"].as_i64()), (1, Some(1)));
    assert_eq!(report["format"], "meshchain/fsck/v1");
    assert_eq!(report["damages"][0]["file"], "tile/entries/000.p/30");
    assert_eq!(report["damages"][0]["offset"], 0);
}

#[test]
fn a_leaf_of_a_log_is_shown_from_a_server_as_from_its_directory() {
    let log = Grown::new(300, 100);
    let folder = log.folder.path().to_owned();
    let url = serve(move |request, _| {
        let path = request.split(' ').nth(1).unwrap_or("/");
        std::fs::read(folder.join(&path[1..])).map_or((404, Vec::new()), |bytes| (200, bytes))
    });
    for index in ["0", "255", "256", "299"] {
        let (code, here, _) = run(&log, &["log", "show", index, "--from", ".", "--json"]);
        let (_, there, _) = run(&log, &["log", "show", index, "--from", &url, "--json"]);
        assert_eq!((code, &here), (0, &there));
        let leaf: serde_json::Value = serde_json::from_str(&here).unwrap();
        assert_eq!(leaf["index"].to_string(), index);
        assert_eq!(leaf["source"]["workload"], "reviews");
    }
    let (_, tail, _) = run(&log, &["log", "tail", "--from", &url, "-n", "1000"]);
    assert_eq!(tail.lines().count(), 300);
}

#[test]
fn a_leaf_that_is_not_in_the_signed_tree_is_not_shown() {
    let log = Grown::new(600, 100);
    let show =
        |index: &str, key: &str| run(&log, &["log", "show", index, "--from", ".", "--vkey", key]);
    for index in ["0", "255", "256", "512", "599"] {
        assert_eq!(show(index, &log.vkey()).0, 0, "{index}");
    }
    let other = meshchain_core::SigningKey::from_seed(crate::grown::ORIGIN, &[9; 32]).unwrap();
    let (code, stdout, _) = show("0", &other.verifier().to_string());
    assert_eq!((code, stdout.as_str()), (2, ""));
    flip(&log, "tile/entries/001", 1_000);
    let leaf = 256 + 1_000 / (2 + log.batches[256].leaf.len());
    let (code, stdout, stderr) = show(&leaf.to_string(), &log.vkey());
    assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
    assert!(stderr.contains("is not in the tree of the checkpoint"), "{stderr}");
}

#[test]
fn strings_of_a_log_do_not_reach_the_terminal_raw() {
    let mut log = Grown::new(0, 1);
    log.commit_batches(vec![batch(0, 0, [0; 32], 0, "\u{202e}evil\\")]);
    log.publish();
    for args in [
        &["log", "show", "0", "--from", "."][..],
        &["log", "show", "0", "--from", ".", "--json"],
        &["log", "tail", "--from", "."],
    ] {
        let (code, stdout, _) = run(&log, args);
        assert_eq!(code, 0);
        assert!(stdout.contains("xaeevil"), "{stdout}");
        assert!(stdout.bytes().all(|b| b == b'\n' || (b' '..=b'~').contains(&b)), "{stdout}");
    }
    let note = String::from_utf8(log.read("checkpoint")).unwrap();
    log.write("checkpoint", note.replace("grown", "\u{1b}[2Jx").as_bytes());
    let (code, stdout, _) = run(&log, &["fsck", "."]);
    assert_eq!(code, 1);
    assert!(stdout.bytes().all(|b| b == b'\n' || (b' '..=b'~').contains(&b)), "{stdout}");
}

#[test]
fn tail_follows_new_leaves_and_ends_with_its_reader() {
    let mut log = Grown::new(5, 5);
    let mut child = Command::new(env!("CARGO_BIN_EXE_meshchain"))
        .args(["log", "tail", "--follow", "-n", "2", "--from", "."])
        .current_dir(log.folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap().trim().split(' ').next().unwrap().to_owned();
    assert_eq!([next(), next()], ["3", "4"]);
    log.commit(2);
    log.publish();
    assert_eq!([next(), next()], ["5", "6"]);
    drop(lines);
    log.commit(1);
    log.publish();
    assert_eq!(child.wait().unwrap().code(), Some(0), "the pipe is closed");
}
