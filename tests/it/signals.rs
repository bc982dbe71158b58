//! A run hears signals whatever it waits for.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::servers::{Server, variables};
use crate::support::Space;

const PATIENCE: Duration = Duration::from_secs(60);

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status();
    assert!(status.expect("kill runs").success());
}

/// Waits until something is true, while the run goes on.
fn wait_for(child: &mut Child, what: &str, is_true: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_true() {
        assert!(child.try_wait().expect("a status").is_none(), "it ended before: {what}");
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The exit code of a run that ends soon.
fn code(child: &mut Child) -> Option<i32> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a status") {
            return status.code();
        }
        if began.elapsed() > Duration::from_secs(20) {
            child.kill().expect("killed");
            panic!("it is deaf");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a run's record has a summary.
fn has_summary(store: &Path) -> bool {
    let runs = std::fs::read_dir(store.join("runs")).into_iter().flatten().flatten();
    runs.into_iter().any(|run| run.path().join("summary.json").exists())
}

/// Steps with names so long that their events fill a pipe, and one that lasts until there is a file `go`.
fn talkative() -> String {
    let mut yaml = "name: talk\nsetup:\n".to_owned();
    let name = "long".repeat(230);
    for number in 0..60 {
        yaml += &format!(
            "  s{number}{name}: {{uses: command, with: {{argv: [sh, -c, 'echo {number} > {{out}}/r'], outputs: [r]}}}}\n"
        );
    }
    yaml + "  last: {uses: command, with: {argv: [sh, -c, 'true > began; until test -e go; do sleep 0.05; done; true \
            > {out}/r'], outputs: [r]}}\n"
}

#[test]
fn signals_are_heard_by_a_run_whose_reader_does_not_read() {
    let space = Space::new();
    space.write("talk.yaml", &talkative());
    let run = ["pipeline", "run", "talk.yaml", "--format", "json", "--jobs", "4"];
    let start =
        || space.command(&run).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("bstar starts");
    let manifests = || {
        let folders = std::fs::read_dir(space.store().join("manifests")).into_iter().flatten().flatten();
        folders.filter_map(|folder| std::fs::read_dir(folder.path()).ok()).flatten().count()
    };
    // The steps get on although nobody reads of them.
    let mut run = start();
    wait_for(&mut run, "all steps but one are done", || {
        manifests() == 60 && space.path().join("began").exists()
    });
    signal(&run, "-TERM");
    assert_eq!(code(&mut run), Some(75));
    assert!(has_summary(&space.store()));

    // It waits for its reader when all is done, and can be ended.
    std::fs::remove_dir_all(space.store().join("runs")).expect("the records are gone");
    space.write("go", "");
    let mut run = start();
    wait_for(&mut run, "the run is recorded", || has_summary(&space.store()));
    std::thread::sleep(Duration::from_millis(200));
    assert!(run.try_wait().expect("a status").is_none(), "it waits for its reader");
    signal(&run, "-TERM");
    assert_eq!(code(&mut run), Some(143));

    // Who reads later reads all.
    let mut run = start();
    std::thread::sleep(Duration::from_millis(300));
    let mut events = String::new();
    run.stdout.take().expect("a pipe").read_to_string(&mut events).expect("text");
    assert_eq!(code(&mut run), Some(0));
    assert!(events.lines().last().expect("a line").contains(r#""event":"summary""#));
    assert_eq!(events.matches(r#""event":"done""#).count(), 61);
}

#[test]
fn signals_a_closed_terminal_is_a_stop_unless_the_run_is_to_outlive_it() {
    let space = Space::new();
    space.write(
        "saves.yaml",
        "name: saves\nsetup:\n  a:\n    uses: command\n    with:\n      argv:\n        - sh\n        - -c\n        - |\n          \
         trap 'true > saved; exit 1' TERM\n          true > began\n          until test -e go; do sleep 0.05; done\n          \
         true > {out}/r\n      outputs: [r]\n",
    );
    let began = || space.path().join("began").exists();
    let mut run = space
        .command(&["pipeline", "run", "saves.yaml"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("bstar starts");
    wait_for(&mut run, "the step began", began);
    signal(&run, "-HUP");
    assert_eq!(code(&mut run), Some(75));
    assert!(space.path().join("saved").exists());

    std::fs::remove_file(space.path().join("began")).expect("the step began");
    let bstar = space.command(&["pipeline", "run", "saves.yaml"]);
    let mut nohup = Command::new("sh");
    nohup.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(bstar.get_program()).args(bstar.get_args());
    nohup.envs(bstar.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let nohup =
        nohup.current_dir(space.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut run = nohup.spawn().expect("sh starts");
    wait_for(&mut run, "the step began", began);
    signal(&run, "-HUP");
    std::thread::sleep(Duration::from_millis(200));
    space.write("go", "");
    assert_eq!(code(&mut run), Some(0));
}

/// Stands before a server, and breaks a connection over which the events of a run are sent.
fn without_events(server: &Server) -> (String, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let (asked, to) = (Arc::new(AtomicBool::new(false)), server.address());
    let seen = Arc::clone(&asked);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(&to) else { return };
            let (mut answers, mut back) =
                (server.try_clone().expect("a socket"), client.try_clone().expect("a socket"));
            std::thread::spawn(move || std::io::copy(&mut answers, &mut back));
            let seen = Arc::clone(&seen);
            std::thread::spawn(move || {
                let (mut client, mut server, mut buffer) = (client, server, vec![0; 1 << 16]);
                while let Ok(length) = client.read(&mut buffer)
                    && length > 0
                {
                    if String::from_utf8_lossy(&buffer[..length]).contains("/events.jsonl") {
                        seen.store(true, Ordering::SeqCst);
                        drop(client.shutdown(std::net::Shutdown::Both));
                        return;
                    }
                    drop(server.write_all(&buffer[..length]));
                }
            });
        }
    });
    (endpoint, asked)
}

#[test]
fn signals_are_heard_by_a_run_that_cannot_end_its_record() {
    let Some(server) = Server::moto() else { return };
    server.make_bucket("signals");
    let (endpoint, asked) = without_events(&server);
    let space = Space::new();
    space.write(
        "one.yaml",
        "name: one\nsetup:\n  a: {uses: command, with: {argv: [sh, -c, 'true > {out}/r'], outputs: [r]}}\n",
    );
    let mut run = space
        .command(&["pipeline", "run", "one.yaml"])
        .envs(variables(&endpoint))
        .env("BSTAR_STORE", "s3://signals/some/prefix")
        .env("BSTAR_TIER", space.path().join("tier"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("bstar starts");
    wait_for(&mut run, "the record is to be ended", || asked.load(Ordering::SeqCst));
    signal(&run, "-INT");
    assert_eq!(code(&mut run), Some(130));
}
