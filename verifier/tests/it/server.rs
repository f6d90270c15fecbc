//! A server of one canned answer per request, on a port of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;

/// Starts it; `answer` maps request line and body to status and body. Returns its URL.
pub(crate) fn serve(answer: impl Fn(&str, &[u8]) -> (u16, Vec<u8>) + Send + 'static) -> String {
    serve_with("", answer)
}

/// The same, with more lines in each answer's head.
pub(crate) fn serve_with(
    lines: &'static str,
    answer: impl Fn(&str, &[u8]) -> (u16, Vec<u8>) + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let mut request = String::new();
            reader.read_line(&mut request).unwrap();
            let mut length = 0;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                let line = line.trim().to_ascii_lowercase();
                if let Some(text) = line.strip_prefix("content-length:") {
                    length = text.trim().parse().unwrap();
                }
                if line.is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let (status, body) = answer(request.trim(), &body);
            let head = format!(
                "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{lines}connection: close\r\n\r\n",
                body.len()
            );
            // The client may have gone away; that is its business.
            let _ = reader.get_mut().write_all(&[head.as_bytes(), &body].concat());
        }
    });
    url
}
