//! A proxy between a store and a server, which counts requests and does what goes wrong in networks.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// It is passed on, and answered.
    Pass,
    /// 503 without passing it on.
    Busy,
    /// 403 without passing it on.
    Deny,
    /// The connection is closed at once.
    Drop,
    /// It is passed on, and the connection is closed before the answer.
    Lose,
    /// Half of the answer, then the end.
    Cut,
    /// It is passed on, and never answered.
    Stall,
    /// It is passed on without its condition.
    Careless,
}

type Decide = Box<dyn Fn(usize, &str) -> Act + Send + Sync>;

struct Shared {
    upstream: String,
    requests: Mutex<Vec<String>>,
    decide: Mutex<Arc<Decide>>,
    ended: AtomicBool,
}

pub(super) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens before the server at the address `upstream`.
    pub(super) fn before(upstream: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let decide: Decide = Box::new(|_, _| Act::Pass);
        let shared = Arc::new(Shared {
            upstream,
            requests: Mutex::default(),
            decide: Mutex::new(Arc::new(decide)),
            ended: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        let listening = std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if serving.ended.load(Ordering::SeqCst) {
                    return;
                }
                let serving = Arc::clone(&serving);
                std::thread::spawn(move || drop(serve(&serving, client)));
            }
        });
        Self { address, shared, listening: Some(listening) }
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests since the last call of this, as `METHOD /path`.
    pub(super) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.requests.lock().unwrap())
    }

    /// What happens to requests from now on, by their number from 0 and their first line.
    pub(super) fn now(&self, decide: impl Fn(usize, &str) -> Act + Send + Sync + 'static) {
        self.requests();
        *self.shared.decide.lock().unwrap() = Arc::new(Box::new(decide));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        drop(self.listening.take().map(JoinHandle::join));
    }
}

fn serve(shared: &Shared, mut client: TcpStream) -> io::Result<()> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        if client.read(&mut byte)? == 0 {
            return Ok(());
        }
        request.push(byte[0]);
    }
    let mut head = String::from_utf8_lossy(&request).into_owned();
    let length = |head: &str| {
        let line = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").map(str::to_owned));
        line.and_then(|length| length.trim().parse().ok()).unwrap_or(0)
    };
    let mut body = vec![0; length(&head)];
    client.read_exact(&mut body)?;
    let line = head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
    let number = {
        let mut requests = shared.requests.lock().unwrap();
        requests.push(line.clone());
        requests.len() - 1
    };
    let decide = Arc::clone(&shared.decide.lock().unwrap());
    let act = decide(number, &line);
    let refuse = |mut client: TcpStream, status: &str, code: &str| {
        let text = format!("<Error><Code>{code}</Code><Message>no</Message></Error>");
        let length = text.len();
        write!(client, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}")
    };
    match act {
        Act::Busy => return refuse(client, "503 Service Unavailable", "SlowDown"),
        Act::Deny => return refuse(client, "403 Forbidden", "AccessDenied"),
        Act::Drop => return client.shutdown(Shutdown::Both),
        Act::Careless => head = head.replace("if-none-match: *", "x-none-match: *"),
        Act::Pass | Act::Lose | Act::Cut | Act::Stall => {}
    }
    head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    let mut server = TcpStream::connect(&shared.upstream)?;
    server.write_all(head.as_bytes())?;
    server.write_all(&body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    match act {
        Act::Lose => client.shutdown(Shutdown::Both),
        Act::Cut => client.write_all(&answer[..answer.len() / 2]),
        Act::Stall => {
            // Until the client has had enough.
            while client.read(&mut byte).is_ok_and(|read| read > 0) {}
            Ok(())
        }
        _ => client.write_all(&answer),
    }
}
