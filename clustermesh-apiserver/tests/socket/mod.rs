//! Asks an admin socket, as curl does.
#![allow(clippy::unwrap_used, clippy::panic, dead_code, unreachable_pub)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use mesh_kv::testing::wait_until;
use serde::de::DeserializeOwned;

use crate::binaries::DEADLINE;

pub struct Socket(PathBuf);

impl Socket {
    /// Waits until somebody answers.
    pub fn new(path: &Path) -> Self {
        wait_until("the admin socket", DEADLINE, || UnixStream::connect(path).is_ok());
        Self(path.into())
    }

    /// Status and body.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(&self.0).unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        // Whoever refuses a body need not read all of it.
        let _refused = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
        let mut answer = String::new();
        let _reset = stream.read_to_string(&mut answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    pub fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        let (status, body) = self.ask("GET", path, "");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }
}
