//! An HTTP proxy before a node that does to calls what networks and other nodes do.

use super::forward;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What becomes of a call.
pub enum Fate {
    /// It is answered by the node.
    Forward,
    /// It reaches the node, but the answer is lost.
    LoseAnswer,
    /// It is lost.
    Lose,
    /// It gets an HTTP status and nothing else.
    Status(u16),
    /// It gets this body.
    Body(Vec<u8>),
    /// It gets this result.
    Result(Value),
    /// It gets this error.
    Error(i64, &'static str),
}

type Script = Box<dyn FnMut(&str, &Value) -> Fate + Send>;

pub struct Proxy {
    pub url: String,
    script: Arc<Mutex<Script>>,
    calls: Arc<AtomicUsize>,
}

impl Proxy {
    /// Starts to listen; every call's fate is decided by `script` from method and parameters.
    pub fn start(node: &str, script: impl FnMut(&str, &Value) -> Fate + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(Box::new(script)));
        let (shared, node) = (script.clone(), node.to_owned());
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (script, node, calls) = (shared.clone(), node.clone(), counted.clone());
                std::thread::spawn(move || serve(stream, &node, &script, &calls));
            }
        });
        Self { url, script, calls }
    }

    /// Calls that came so far.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    pub fn set(&self, script: impl FnMut(&str, &Value) -> Fate + Send + 'static) {
        *self.script.lock().unwrap() = Box::new(script);
    }
}

/// Serves one connection until a fate ends it.
fn serve(stream: TcpStream, node: &str, script: &Mutex<Script>, calls: &AtomicUsize) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut writer = stream;
    loop {
        let call = read_call(&mut reader)?;
        calls.fetch_add(1, Ordering::Relaxed);
        let fate = script.lock().unwrap()(call["method"].as_str()?, &call["params"]);
        let (status, body) = match fate {
            Fate::Forward => (200, forward(node, &call).to_string().into_bytes()),
            Fate::LoseAnswer => {
                forward(node, &call);
                return None;
            }
            Fate::Lose => return None,
            Fate::Status(status) => (status, Vec::new()),
            Fate::Body(body) => (200, body),
            Fate::Result(result) => (200, answer(json!({"result": result}))),
            Fate::Error(code, message) => {
                (200, answer(json!({"error": {"code": code, "message": message}})))
            }
        };
        let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n", body.len());
        // In one piece, or the second would wait for the first one's acknowledgement.
        writer.write_all(&[head.into_bytes(), body].concat()).ok()?;
    }
}

fn answer(mut body: Value) -> Vec<u8> {
    body["jsonrpc"] = json!("2.0");
    body["id"] = json!(1);
    body.to_string().into_bytes()
}

fn read_call(reader: &mut impl BufRead) -> Option<Value> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    serde_json::from_slice(&body).ok()
}
