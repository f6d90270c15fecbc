use crate::support::{Collector, Session, body, fails};
use std::fs;
use std::os::unix::fs::PermissionsExt;

#[test]
fn with_a_data_directory_alone_it_starts_with_a_key_of_its_own_and_no_chain() {
    let data = tempfile::tempdir().unwrap();
    let collector = Collector::start(&data.path().join("new"), &[]);
    let key = collector.audit("key");
    assert_eq!((&key["new"], &key["key"]), (&true.into(), &"log".into()));
    assert!(key["vkey"].as_str().unwrap().starts_with("meshchain.local/"));
    assert_eq!(collector.text("/v1/anchors"), "[]");
}

#[test]
fn init_makes_a_key_once_and_prints_the_verification_key() {
    let data = tempfile::tempdir().unwrap();
    let directory = data.path().join("new");
    let init = || {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_meshchain-collector"))
            .args(["init", "--origin", "a.example/log", "--data"])
            .arg(&directory)
            .output()
            .unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let vkey = init();
    assert!(vkey.starts_with("a.example/log+"), "{vkey}");
    assert_eq!(init(), vkey);
    let mode = fs::metadata(directory.join("key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let collector = Collector::start(&directory, &["--origin", "a.example/log"]);
    assert_eq!(collector.audit("key")["vkey"], vkey.trim());
}

#[test]
fn a_stop_answers_what_is_open_and_says_so_in_the_audit_log() {
    let data = tempfile::tempdir().unwrap();
    let collector = Collector::start(data.path(), &[]);
    assert_eq!(collector.post(&body(&Session::new(1).next(1, 7))).0, 200);
    assert!(collector.stop().success());
    let audit = fs::read_to_string(data.path().join("audit.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(audit.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["event"], &last["why"], &last["log"]["size"]),
        (&"stop".into(), &"asked".into(), &1.into())
    );
}

#[test]
fn a_second_collector_another_origin_and_a_taken_port_are_refused() {
    let data = tempfile::tempdir().unwrap();
    let collector = Collector::start(data.path(), &["--origin", "a.example/log"]);
    let directory = data.path().to_str().unwrap();
    let (code, error) = fails(&["--listen", "127.0.0.1:0", "--data", directory]);
    assert!(code == 1 && error.contains("in use by another collector"), "{error}");
    let other = tempfile::tempdir().unwrap();
    let taken = collector.url.strip_prefix("http://").unwrap();
    let (code, error) = fails(&["--listen", taken, "--data", other.path().to_str().unwrap()]);
    assert!(code == 1 && error.contains("cannot listen"), "{error}");
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 0, "nothing is founded");
    collector.kill();
    let listen = ["--listen", "127.0.0.1:0", "--data", directory, "--origin"];
    let start = |origin| fails(&[&listen[..], &[origin]].concat());
    let (code, error) = start("b.example/log");
    let holds = "holds the log a.example/log, not b.example/log";
    assert!(code == 1 && error.contains(holds), "{error}");
    fs::remove_file(data.path().join("key")).unwrap();
    let (code, error) = start("a.example/log");
    assert!(code == 1 && error.contains("the key of this log is missing: restore it"), "{error}");
    assert!(!data.path().join("key").exists(), "none is made");
}

#[test]
fn a_lost_volume_is_not_a_new_log_unless_init_says_so() {
    let (lost, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let key = kept.path().join("key");
    let key = key.to_str().unwrap();
    let arguments = ["--key", key, "--origin", "a.example/log"];
    let first = Collector::start(&lost.path().join("first"), &arguments);
    let vkey = first.audit("key")["vkey"].clone();
    first.kill();
    let data = lost.path().join("second");
    let place = ["--data", data.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let (code, error) = fails(&[&place[..], &arguments].concat());
    assert!(code == 1 && error.contains("holds no log") && error.contains("init"), "{error}");
    let mut init = std::process::Command::new(env!("CARGO_BIN_EXE_meshchain-collector"));
    let founded = init.arg("init").args(["--data", place[1]]).args(arguments).status().unwrap();
    assert!(founded.success());
    let second = Collector::start(&data, &arguments);
    assert_eq!(second.audit("key")["vkey"], vkey);
}

#[test]
fn no_log_begins_beside_the_audit_log_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("old"), folder.path().join("new"));
    let log = Collector::start(&old, &["--origin", "old.example/log"]);
    log.audit("key");
    log.kill();
    fs::create_dir(&new).unwrap();
    fs::copy(old.join("audit.jsonl"), new.join("audit.jsonl")).unwrap();
    let place = ["--data", new.to_str().unwrap(), "--origin", "new.example/log"];
    let says = "holds the audit log of old.example/log, not of new.example/log";
    for command in [&["init"][..], &["--listen", "127.0.0.1:0"]] {
        let (code, error) = fails(&[command, &place].concat());
        assert!(code == 1 && error.contains(says), "{error}");
    }
}

#[test]
fn a_broken_configuration_ends_with_2_before_a_port_is_opened() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("collector.toml");
    fs::write(&file, "data = '/nowhere'\n\nlistn = '127.0.0.1:1'\n").unwrap();
    let (code, error) = fails(&["--config", file.to_str().unwrap()]);
    assert_eq!(code, 2);
    assert!(error.contains("line 3") && error.contains("listn"), "{error}");
    let (code, error) = fails(&[]);
    assert!(code == 2 && error.contains("--data"), "{error}");
    assert_eq!(fails(&["--config", "/does/not/exist"]).0, 2);
    assert_eq!(fails(&["--no-such-flag"]).0, 2);
}

#[test]
fn a_log_is_founded_by_the_key_that_was_made_for_it_and_by_no_other() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    let (secret, data) = (path("secret"), path("data"));
    let key = secret.join("key");
    let (key, data) = (key.to_str().unwrap(), data.to_str().unwrap());
    fs::create_dir(&secret).unwrap();
    let log = Collector::start(path("data").as_path(), &["--key", key]);
    assert_eq!(log.post(&body(&Session::new(1).next(1, 7))).0, 200);
    drop(log);
    // The volume is lost, and the key's is not there yet when it starts.
    fs::rename(data, path("lost")).unwrap();
    fs::rename(&secret, path("away")).unwrap();
    let arguments = ["--listen", "127.0.0.1:0", "--data", data, "--key", key];
    let (code, error) = fails(&arguments);
    assert!(code == 1 && error.contains("key file"), "{error}");
    fs::rename(path("away"), &secret).unwrap();
    for _ in 0..2 {
        let (code, error) = fails(&arguments);
        assert!(code == 1 && error.contains("holds no log, and the key"), "{error}");
    }
    // What was cut off between its key and its log goes on.
    fs::remove_file(key).unwrap();
    let new = Collector::start(path("data").as_path(), &["--key", key]);
    let vkey = new.audit("key")["vkey"].as_str().unwrap().to_owned();
    drop(new);
    fs::remove_dir_all(data).unwrap();
    fs::create_dir(data).unwrap();
    fs::write(path("data").join("founding"), vkey).unwrap();
    drop(Collector::start(path("data").as_path(), &["--key", key]));
}
