use super::attacks::ATTACKS;
use super::*;
use crate::at_hand::{sandbox, skipped};

fn alive(pid: Pid) -> bool {
    rustix::process::test_kill_process(pid).is_ok()
}

#[test]
fn a_program_answers_line_by_line() {
    let Some(sandbox) = sandbox() else { return };
    let program = "for line in sys.stdin:\n    print(line.strip() * 2, flush=True)";
    let mut session = sandbox.start(program, Limits::default()).unwrap();
    assert_eq!(session.ask("ab", Duration::from_secs(20)).unwrap(), "abab");
    assert_eq!(session.ask("", Duration::from_secs(20)).unwrap(), "");
    let root = session.root.expect("a first process");
    assert!(alive(root));
    drop(session);
    assert!(!alive(root), "nothing is left");
}

#[test]
fn every_attack_is_held() {
    let Some(sandbox) = sandbox() else { return };
    for attack in ATTACKS {
        assert_eq!(attack.attempt(&sandbox), Ok(()), "{}", attack.name);
    }
}

#[test]
fn attacks_are_told_where_nothing_holds_them() {
    let Ok(sandbox) = Sandbox::nothing() else { return skipped("there is no Python") };
    let harmless = ["read the user's files", "connect to this machine"];
    for attack in ATTACKS.iter().filter(|attack| harmless.contains(&attack.name)) {
        assert!(attack.attempt(&sandbox).is_err(), "{}", attack.name);
    }
}

#[test]
fn limits_end_a_session_by_name() {
    let Some(sandbox) = sandbox() else { return };
    let ended = |name: &str| {
        let program = match name {
            "time" => "while True: pass",
            "output" => "print('x' * 10**6)",
            "files" => "import os\nfor i in range(10**6): os.close(os.open(f'/tmp/{i}', os.O_CREAT))",
            "memory" => {
                "import os, time\nfor _ in range(6):\n    if os.fork() == 0: x = bytearray(os.urandom(1 << 20) * 50); time.sleep(60)\n\
                 time.sleep(60)"
            }
            _ => "raise SystemExit",
        };
        let limits = Limits { memory: 200 << 20, output: 1 << 16, files: 500, ..Limits::default() };
        let time = if name == "time" { 1 } else { 60 };
        sandbox.start(program, limits).unwrap().hear(Duration::from_secs(time)).unwrap_err()
    };
    assert!(matches!(ended("time"), Ended::Time));
    assert!(matches!(ended("output"), Ended::Output));
    assert!(matches!(ended("files"), Ended::Files));
    assert!(matches!(ended("memory"), Ended::Memory));
    assert!(matches!(ended("exit"), Ended::Exited));
}

/// Processes below this one, zombies included.
fn children() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let children =
        |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
    tasks.map(|task| children(task.unwrap()).split_whitespace().count()).sum()
}

#[test]
fn nothing_is_left_after_many_runs() {
    let Some(sandbox) = sandbox() else { return };
    let runs = if std::env::var("BSTAR_TRIALS").as_deref() == Ok("full") { 1000 } else { 10 };
    let program = "
import os, time
open('/tmp/left', 'w').write('x')
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
print('left', flush=True)
time.sleep(600)";
    let before = children();
    for _ in 0..runs {
        let mut session = sandbox.start(program, Limits::default()).unwrap();
        assert_eq!(session.hear(Duration::from_secs(60)).unwrap(), "left");
        let root = session.root.expect("a first process");
        drop(session);
        assert!(!alive(root));
    }
    assert_eq!(children(), before);
    assert!(!std::path::Path::new("/tmp/left").exists());
}
