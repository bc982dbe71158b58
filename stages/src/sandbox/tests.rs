use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

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

/// The sandbox with options of bubblewrap left out, each with so many values, and others added; the folder holds the
/// program that sees to that.
fn weaker(sandbox: &Sandbox, left_out: &[(&str, usize)], added: &str) -> (tempfile::TempDir, Sandbox) {
    let mut weaker = sandbox.clone();
    let Isolation::Bubblewrap(bubblewrap) = &mut weaker.isolation else { panic!("no bubblewrap") };
    let cases: String =
        left_out.iter().map(|(option, values)| format!("{option}) skip={values};; ")).collect();
    let script = format!(
        "#!/bin/sh
skip=0
for option; do
    shift
    if [ $skip -gt 0 ]; then skip=$((skip - 1)); continue; fi
    case \"$option\" in
        {cases}
        --) set -- \"$@\" {added} --;;
        *) set -- \"$@\" \"$option\";;
    esac
done
exec {} \"$@\"
",
        bubblewrap.program
    );
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("bwrap");
    std::fs::write(&program, script).unwrap();
    for path in [folder.path(), &program] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    bubblewrap.program = program.to_string_lossy().into_owned();
    (folder, weaker)
}

/// What a weaker sandbox lets happen: otherwise an attack that can do nothing anywhere would count as held.
fn told(names: &[&str], sandbox: &Sandbox, limits: Limits) {
    for name in names {
        let attack = ATTACKS.iter().find(|attack| attack.name == *name).expect(name);
        let told = attack.attempt_within(sandbox, limits).expect_err(name);
        assert!(!told.contains("should be"), "{name}: {told}");
    }
}

#[test]
fn attacks_are_told_where_nothing_holds_them() {
    let Some(sandbox) = sandbox() else { return };
    let told_without = |left_out: &[(&str, usize)], added: &str, names: &[&str]| {
        let (_folder, weaker) = weaker(&sandbox, left_out, added);
        told(names, &weaker, attacks::LIMITS);
    };
    told_without(
        &[],
        "--ro-bind / / --proc /proc --tmpfs /tmp --chdir /tmp --setenv TOKEN secret",
        &[
            "read the user's files",
            "read through links",
            "links in a circle, and one that changes",
            "secrets in the environment",
            "tricks with /proc",
            "a verdict on every descriptor",
        ],
    );
    told_without(&[("--remount-ro", 1)], "", &["write outside /tmp"]);
    told_without(&[("--unshare-net", 0)], "", &["connect to this machine"]);
    told_without(&[("--uid", 1)], "--uid 0", &["become root"]);
    told_without(
        &[("--seccomp", 1), ("--disable-userns", 0)],
        "",
        &[
            "new namespaces and mounts",
            "trace another process",
            "dangerous system calls",
            "memory of no process",
        ],
    );
    let limits =
        Limits { memory: 16 << 30, processes: 2000, file: 2 << 30, folder: 2 << 30, ..attacks::LIMITS };
    let names = [
        "threads without end",
        "memory of one process",
        "fill the folder",
        "one huge file",
        "a bomb of zeros",
        "an archive that unfolds",
    ];
    told(&names, &sandbox, limits);
}

#[test]
fn processes_that_are_left_behind_are_told() {
    let Some(sandbox) = sandbox() else { return };
    let (_folder, weaker) = weaker(&sandbox, &[("--unshare-pid", 0), ("--die-with-parent", 0)], "");
    for name in ["a process left behind", "daemons that sleep"] {
        let attack = ATTACKS.iter().find(|attack| attack.name == name).expect(name);
        let told = attack.attempt(&weaker).expect_err(name);
        assert!(told.contains("left behind"), "{name}: {told}");
        for pid in attacks::running(attack.program) {
            let _gone_already = kill_process(pid, Signal::KILL);
        }
    }
}

/// A program that breaks at once has shown nothing.
#[test]
fn an_attack_that_breaks_is_not_held() {
    let Some(sandbox) = sandbox() else { return };
    let broken =
        |attack: &&attacks::Attack| !matches!(attack.held, attacks::Held::Ends | attacks::Held::SaysOrEnds);
    for attack in ATTACKS.iter().filter(broken) {
        let told = attacks::Attack { program: "raise Exception", ..*attack }.attempt(&sandbox);
        assert!(told.is_err(), "{}", attack.name);
    }
}

#[test]
fn without_bubblewrap_nothing_is_found() {
    let Ok(python) = python::usual() else { return skipped("there is no Python") };
    let absent = bubblewrap::Bubblewrap::among([], &python).unwrap_err();
    assert_eq!(absent.reason, "`bwrap` is not installed");
    assert!(absent.hint.contains("apt install bubblewrap") && absent.hint.contains("unsafe_no_sandbox"));
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy("/bin/false", folder.path().join("bwrap")).unwrap();
    let broken = bubblewrap::Bubblewrap::among([folder.path().to_owned()], &python).unwrap_err();
    assert!(broken.reason.contains("does not work"), "{broken}");
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

/// What those whom programs run as have in this machine's folder for passing files, where that tells them from us.
fn files() -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
    let theirs = entries.filter(|entry| entry.metadata().is_ok_and(|data| data.uid() == bubblewrap::NOBODY));
    theirs.map(|entry| entry.path()).collect()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn nothing_is_left_after_many_runs() {
    let full = std::env::var("BSTAR_TRIALS").as_deref() == Ok("full");
    let Some(sandbox) = sandbox() else { return assert!(!full, "there is no sandbox") };
    let runs = if full { 1000 } else { 10 };
    // One of its kind, to be found among all processes and files.
    let mark = format!("left-{}", std::process::id());
    let program = format!(
        "
import os, time
for name in ('{mark}', '{mark}.folder/{mark}'):
    os.makedirs(os.path.dirname('/tmp/' + name), exist_ok=True)
    open('/tmp/' + name, 'w').write('x')
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
print('left', flush=True)
time.sleep(600)"
    );
    let before = (children(), files(), descriptors());
    for _ in 0..runs {
        let mut session = sandbox.start(&program, Limits::default()).unwrap();
        assert_eq!(session.hear(Duration::from_secs(60)).unwrap(), "left");
        let root = session.root.expect("a first process");
        assert!(attacks::running(&program).len() > 3, "its processes can be seen");
        drop(session);
        assert!(!alive(root));
        assert_eq!(attacks::running(&program), []);
    }
    assert_eq!((children(), files(), descriptors()), before);
    for folder in [std::env::temp_dir(), "/tmp".into(), "/dev/shm".into(), "/var/tmp".into()] {
        let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let left: Vec<_> = names.filter(|name| name.to_string_lossy().contains(&mark)).collect();
        assert_eq!(left, Vec::<std::ffi::OsString>::new());
    }
}
