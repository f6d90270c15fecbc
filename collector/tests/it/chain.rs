//! What the chains hold of a log is asked before it grows, and asked again.

use crate::support::{Collector, Session, body, wait_until};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// What a node says.
#[derive(Clone, Copy)]
enum Says {
    /// It is away.
    Nothing,
    /// An error of other words each time.
    Words,
    /// Of the contract's head: size and a byte of the root.
    Head(u64, u8),
}

use Says::{Head, Nothing, Words};

/// A node of a chain on which nothing is ever mined.
struct Node {
    url: String,
    says: Arc<Mutex<Says>>,
}

impl Node {
    fn new(says: Says) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let says = Arc::new(Mutex::new(says));
        let shared = says.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let says = shared.clone();
                std::thread::spawn(move || serve(stream, &says));
            }
        });
        Self { url, says }
    }

    fn say(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    /// Its table of the collector's configuration.
    fn table(&self, chain: &str, key: &Path, more: &str) -> String {
        let (url, key) = (&self.url, key.display());
        let contract = hex::encode(chain);
        format!(
            "[[anchor]]\nchain = '{chain}'\nrpc = '{url}'\nchain_id = 5\npoll_ms = 50\nkey_file = '{key}'\n\
             contract = '0x{contract:0>40}'\n{more}\n"
        )
    }
}

fn serve(mut stream: TcpStream, says: &Mutex<Says>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut count = 0;
    loop {
        let mut length = 0;
        let mut line = String::new();
        while reader.read_line(&mut line).ok()? > 0 && !line.trim_end().is_empty() {
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            line.clear();
        }
        let mut call = vec![0; length];
        reader.read_exact(&mut call).ok()?;
        let call: Value = serde_json::from_slice(&call).ok()?;
        count += 1;
        let says = *says.lock().unwrap();
        let (size, root) = match says {
            Nothing => return None,
            Words => (0, 0),
            Head(size, root) => (size, root),
        };
        let result = match call["method"].as_str()? {
            "eth_chainId" => json!("0x5"),
            "eth_getCode" => json!("0x60"),
            "eth_call" => {
                json!(format!("0x{size:064x}{:0128x}{}", 0, hex::encode([root; 32])))
            }
            "eth_getBalance" | "eth_getTransactionCount" => json!("0x0"),
            _ => Value::Null,
        };
        let mut answer = json!({"jsonrpc": "2.0", "id": 1, "result": result});
        if matches!(says, Words) {
            answer["error"] = json!({"code": 1, "message": format!("word {count}")});
        }
        let answer = answer.to_string();
        let head = format!("HTTP/1.1 200 x\r\nContent-Length: {}\r\n\r\n", answer.len());
        stream.write_all(&[head, answer].concat().into_bytes()).ok()?;
    }
}

/// A directory with a key that anchors and a configuration with these tables.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new(tables: impl FnOnce(&Path) -> String) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("anchor.key");
        fs::write(&key, "11".repeat(32)).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(directory.path().join("toml"), tables(&key)).unwrap();
        Self { directory }
    }

    fn start(&self) -> Collector {
        let config = self.directory.path().join("toml");
        let data = self.directory.path().join("data");
        Collector::start(
            &data,
            &["--origin", "a.example/log", "--config", config.to_str().unwrap()],
        )
    }

    /// Audit lines of this event.
    fn audited(&self, event: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.directory.path().join("data/audit.jsonl")).unwrap();
        // The last one may be on its way.
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let lines = whole.map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["event"] == event).collect()
    }
}

fn ready(collector: &Collector) -> (u16, String) {
    let (status, text) = collector.get("/readyz");
    (status, String::from_utf8(text).unwrap())
}

/// Whether a batch is refused for that reason.
fn refuses(collector: &Collector, batch: &[u8], reason: &str) -> bool {
    let (status, answer) = collector.post(batch);
    (status, answer["reason"].as_str()) == (503, Some(reason))
}

#[test]
fn no_batch_is_taken_before_each_chain_was_asked_and_the_log_is_read_meanwhile() {
    let nodes = [Node::new(Nothing), Node::new(Nothing)];
    let place = Place::new(|key| nodes[0].table("one", key, "") + &nodes[1].table("two", key, ""));
    let mut session = Session::new(1);
    // At first without a leaf, then with one: a lost volume looks like the first.
    for size in 0..2 {
        nodes.iter().for_each(|node| node.say(Nothing));
        let batch = body(&session.next(1, 7));
        let collector = place.start();
        let (one, two) =
            ("chain one: the node does not answer", "chain two: the node does not answer");
        wait_until("both are away", || {
            let (status, why) = ready(&collector);
            status == 503 && why.contains("chain_unknown") && why.contains(one) && why.contains(two)
        });
        assert!(refuses(&collector, &batch, "chain_unknown"));
        assert_eq!((collector.get("/healthz").0, collector.size()), (200, size));
        assert_eq!(collector.metric(r#"meshchain_chain_unknown{chain="one"}"#), 1.0);
        nodes[0].say(Head(0, 0));
        wait_until("one is asked", || {
            let (status, why) = ready(&collector);
            status == 503 && !why.contains("chain one") && why.contains(two)
        });
        assert!(refuses(&collector, &batch, "chain_unknown"));
        assert_eq!(collector.metric(r#"meshchain_chain_unknown{chain="one"}"#), 0.0);
        assert_eq!(collector.metric(r#"meshchain_chain_unknown{chain="two"}"#), 1.0);
        nodes[1].say(Head(0, 0));
        wait_until("both are asked", || ready(&collector).0 == 200);
        assert_eq!(collector.post(&batch).0, 200);
        collector.wait_published(size + 1);
        // A node that goes away later holds nothing up: what it held is known.
        nodes.iter().for_each(|node| node.say(Nothing));
        assert_eq!(collector.post(&batch).0, 200);
        assert!(collector.stop().success());
    }
    let told = place.audited("chain_unknown");
    assert_eq!(told.len(), 2, "once in each life: {told:?}");
    assert_eq!(told[0]["chains"], json!(["one", "two"]));
}

#[test]
fn whoever_says_so_in_the_configuration_goes_on_without_a_node_that_is_gone() {
    let nodes = [Node::new(Nothing), Node::new(Head(0, 0))];
    let away = "required_at_start = false";
    let place =
        Place::new(|key| nodes[0].table("one", key, away) + &nodes[1].table("two", key, ""));
    let collector = place.start();
    wait_until("the other one is asked", || ready(&collector).0 == 200);
    assert_eq!(collector.post(&body(&Session::new(1).next(1, 7))).0, 200);
    // It halts the log all the same when it is back and speaks of another one.
    nodes[0].say(Head(1, 9));
    wait_until("it is back", || {
        refuses(&collector, &body(&Session::new(2).next(1, 7)), "older_copy")
    });
}

#[test]
fn a_node_halts_the_log_from_its_first_word_until_it_takes_it_back() {
    let node = Node::new(Nothing);
    let place = Place::new(|key| node.table("one", key, ""));
    let mut session = Session::new(1);
    node.say(Head(0, 0));
    let collector = place.start();
    assert_eq!(collector.post(&body(&session.next(1, 7))).0, 200);
    collector.wait_published(1);
    assert!(collector.stop().success());

    let next = body(&session.next(1, 7));
    for (life, says) in [Head(5, 9), Head(1, 9)].into_iter().enumerate() {
        node.say(Nothing);
        let collector = place.start();
        assert!(refuses(&collector, &next, "chain_unknown"));
        node.say(says);
        wait_until("it speaks of another log", || ready(&collector).1.contains("older_copy"));
        let (_, why) = ready(&collector);
        assert!(
            why.contains("chain one: ") && why.contains("by the word of the RPC node"),
            "{why}"
        );
        assert!(refuses(&collector, &next, "older_copy"));
        assert_eq!((collector.metric("meshchain_older_copy"), collector.size()), (1.0, 1));
        node.say(Head(0, 0));
        wait_until("it takes that back", || ready(&collector).0 == 200);
        assert_eq!((collector.metric("meshchain_older_copy"), collector.size()), (0.0, 1));
        if life == 1 {
            assert_eq!(collector.post(&next).0, 200);
        }
        assert!(collector.stop().success());
    }
    let (halts, back) = (place.audited("older_copy"), place.audited("recovered"));
    assert_eq!((halts.len(), back.len()), (2, 2), "{halts:?} {back:?}");
    for (halt, back) in halts.iter().zip(&back) {
        assert_eq!((&halt["chain"], &halt["why"]), (&json!("one"), &back["why"]));
        assert_eq!((&back["chain"], &back["halted"]), (&json!("one"), &json!(false)));
    }
}

#[test]
fn no_node_lifts_what_a_file_says() {
    let node = Node::new(Head(0, 0));
    let place = Place::new(|key| node.table("one", key, ""));
    let collector = place.start();
    assert_eq!(collector.post(&body(&Session::new(1).next(1, 7))).0, 200);
    collector.wait_published(1);
    assert!(collector.stop().success());
    let file = place.directory.path().join("data/audit.jsonl");
    let audit = fs::read_to_string(&file).unwrap();
    let root = audit.rsplit_once(r#""root":""#).unwrap().1[..64].to_owned();
    fs::write(&file, audit.replace(&root, &"ab".repeat(32))).unwrap();
    node.say(Head(5, 9));
    let collector = place.start();
    let next = body(&Session::new(2).next(1, 7));
    wait_until("the node halts it too", || place.audited("older_copy").len() == 2);
    node.say(Head(0, 0));
    wait_until("it takes that back", || place.audited("recovered").len() == 1);
    assert_eq!(place.audited("recovered")[0]["halted"], json!(true));
    assert!(refuses(&collector, &next, "older_copy"));
    assert_eq!(collector.metric("meshchain_older_copy"), 1.0);
}

#[test]
fn a_node_of_ever_other_words_fills_no_audit_log() {
    let node = Node::new(Words);
    let place = Place::new(|key| node.table("one", key, ""));
    let collector = place.start();
    let mut seen = HashSet::new();
    wait_until("the status has ever newer words", || {
        let status: Value = serde_json::from_str(&collector.text("/v1/anchors")).unwrap();
        seen.insert(status[0]["status"]["alert"].to_string());
        seen.len() > 5
    });
    node.say(Head(0, 0));
    wait_until("it is asked", || ready(&collector).0 == 200);
    assert!(collector.stop().success());
    let steps = place.audited("anchor");
    let told = |step: &str| steps.iter().filter(|line| line["step"] == step).count();
    assert_eq!((told("alert"), told("recovered")), (1, 1), "{steps:?}");
}

#[test]
fn a_damaged_state_of_an_anchor_stops_that_anchor_and_no_batch() {
    let node = Node::new(Head(0, 0));
    let place = Place::new(|key| node.table("one", key, ""));
    assert!(place.start().stop().success());
    let state = place.directory.path().join("data/anchor/one/pending.json");
    let text = fs::read_to_string(&state).unwrap();
    for damaged in [String::new(), text.replace("last_start_ms", "last_start_mr")] {
        fs::write(&state, &damaged).unwrap();
        let collector = place.start();
        wait_until("the chain is asked", || ready(&collector).0 == 200);
        assert_eq!(collector.post(&body(&Session::new(1).next(1, 7))).0, 200);
        let status = || -> Value {
            let anchors: Value = serde_json::from_str(&collector.text("/v1/anchors")).unwrap();
            anchors[0]["status"].clone()
        };
        wait_until("the anchor stops", || status()["stopped"] == json!(true));
        assert!(
            status()["alert"].as_str().unwrap().contains("fsck --rpc --repair"),
            "{}",
            status()
        );
        assert!(collector.stop().success());
        assert_eq!(fs::read_to_string(&state).unwrap(), damaged);
    }
}
