//! S3 servers for tests, each on a free port of this machine and ended with its last use.
//!
//! | server | found as | what it is good for |
//! |---|---|---|
//! | moto | `$BSTAR_TEST_MOTO`, `third_party/s3/bin/moto_server`, on the `PATH` | conditional writes, made atomic by `serial_moto.py`; forgets everything |
//! | s3s-fs | `$BSTAR_TEST_S3S`, `third_party/s3/bin/s3s-fs`, on the `PATH` | checks signatures, keeps files; conditional writes race |
//!
//! `make setup-s3` installs both. Tests that need one which is not there say so with [`skipped`] and pass.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[path = "skipped.rs"]
mod skipped;

pub(crate) use skipped::skipped;

/// The keys that every server here accepts.
const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "AKEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "SKEXAMPLE")];

/// Python is slow to start on a busy machine.
const START: Duration = Duration::from_secs(90);

/// A running server.
pub(crate) struct Server {
    process: Child,
    port: u16,
    /// Where s3s-fs keeps its buckets.
    folder: tempfile::TempDir,
    is_moto: bool,
}

impl Server {
    /// Starts moto; `None`, after saying why, where it is not there.
    pub(crate) fn moto() -> Option<Self> {
        let found = Program::find("BSTAR_TEST_MOTO", "moto_server")?;
        // The script names the interpreter that has moto.
        let script = std::fs::read_to_string(&found.path).unwrap_or_default();
        let interpreter = script.lines().next().and_then(|line| line.strip_prefix("#!")).map(str::trim);
        let Some(interpreter) = interpreter.filter(|path| Path::new(path).is_file()) else {
            skipped(&format!("{} is not a Python script (make setup-s3)", found.path.display()));
            return None;
        };
        let python = Program { path: interpreter.into(), chosen: found.chosen };
        Self::start(true, &python, &|command, port, folder| {
            let server = folder.join("serial_moto.py");
            std::fs::write(&server, include_str!("serial_moto.py")).expect("a written file");
            command.arg(server).arg(port.to_string());
        })
    }

    /// Starts s3s-fs; `None`, after saying why, where it is not there.
    pub(crate) fn s3s() -> Option<Self> {
        let program = Program::find("BSTAR_TEST_S3S", "s3s-fs")?;
        Self::start(false, &program, &|command, port, folder| {
            command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
            command.args(["--access-key", KEYS[0].1, "--secret-key", KEYS[1].1]).arg(folder);
        })
    }

    fn start(is_moto: bool, program: &Program, arguments: &dyn Fn(&mut Command, u16, &Path)) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        // Another process may take the port before the server does: then it ends, and the next try is made.
        for _ in 0..5 {
            let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
            let port = free.expect("a free port").port();
            let mut command = Command::new(&program.path);
            arguments(&mut command, port, folder.path());
            let mut process = command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("the server starts");
            let started = Instant::now();
            while started.elapsed() < START && process.try_wait().is_ok_and(|ended| ended.is_none()) {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Some(Self { process, port, folder, is_moto });
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            drop(process.kill());
            drop(process.wait());
        }
        let path = program.path.display();
        assert!(!program.chosen, "{path} does not start");
        skipped(&format!("{path} does not start (make setup-s3)"));
        None
    }

    /// `http://127.0.0.1:PORT`
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// `127.0.0.1:PORT`
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The variables with which this server is used.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        variables(&self.endpoint())
    }

    /// Makes a bucket.
    pub(crate) fn make_bucket(&self, name: &str) {
        if !self.is_moto {
            std::fs::create_dir_all(self.folder.path().join(name)).expect("a folder");
            return;
        }
        self.put(name, &[]);
    }

    /// Makes a bucket of moto, or an object `bucket/name` whatever was there.
    pub(crate) fn put(&self, name: &str, content: &[u8]) {
        assert!(self.is_moto, "s3s-fs looks at signatures");
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("a connection");
        let length = content.len();
        // Moto wants a signature, and does not look at it.
        let request = format!(
            "PUT /{name} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: AWS {}:any\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n",
            KEYS[0].1
        );
        stream.write_all(&[request.as_bytes(), content].concat()).expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// The variables with which a server at that address is used.
pub(crate) fn variables(endpoint: &str) -> Vec<(String, String)> {
    let pairs = [KEYS[0], KEYS[1], ("AWS_ENDPOINT_URL", endpoint), ("AWS_REGION", "us-east-1")];
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// A server's executable.
struct Program {
    path: PathBuf,
    /// Named by a variable, or installed for these tests; what is on the `PATH` may be anything.
    chosen: bool,
}

impl Program {
    fn find(variable: &str, name: &str) -> Option<Self> {
        let given = std::env::var_os(variable).map(PathBuf::from);
        let roots = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().take(2);
        let installed = roots.map(|root| root.join("third_party/s3/bin").join(name));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let on_path: Vec<_> = std::env::split_paths(&path).map(|folder| folder.join(name)).collect();
        let chosen = given.into_iter().chain(installed).map(|path| Self { path, chosen: true });
        let any = on_path.into_iter().map(|path| Self { path, chosen: false });
        let found = chosen.chain(any).find(|program| program.path.is_file());
        if found.is_none() {
            skipped(&format!("there is no {name} (make setup-s3, or set {variable})"));
        }
        found
    }
}
