//! The attacks: programs that try something, and what is to stop them.

use super::{Attack, Held};

/// What every attack may use.
pub(super) const TOOLS: &str = r#"
import ctypes, errno, os, signal, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)

def tell(word):
    os.write(1, word.encode("utf-8", "replace") + b"\n")

def opens(path, mode="rb"):
    try:
        with open(path, mode) as file:
            if "r" in mode:
                file.read(1)
        return True
    except OSError:
        return False

def any_opens(paths, mode="rb"):
    done = [path for path in paths if opens(path, mode)]
    tell(f"opened {done}" if done else "held")

def forbidden(number, *args):
    return libc.syscall(number, *args) == -1 and ctypes.get_errno() in (errno.EPERM, errno.ENOSYS)
"#;

/// All attacks.
pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "read the user's files",
        held: Held::Says,
        program: r#"any_opens(["/etc/passwd", "/etc/shadow", "/etc/hostname", "/root/.bashrc", "/home", "/var/log/dpkg.log",
"/sys/kernel/notes", "/proc/1/environ", "/proc/self/environ", "/run/utmp", "/../etc/passwd", "/tmp/../../etc/passwd"])"#,
    },
    Attack {
        name: "read through links",
        held: Held::Says,
        program: r#"
for index, target in enumerate(["/etc/passwd", "/proc/1/root/etc/passwd", "/proc/self/cwd/../etc/passwd", "../../etc/passwd"]):
    os.symlink(target, f"/tmp/{index}")
try:
    os.link("/usr/bin/env", "/tmp/hard")
    tell("hard link")
except OSError:
    any_opens([f"/tmp/{index}" for index in range(4)])"#,
    },
    Attack {
        name: "write outside /tmp",
        held: Held::Says,
        program: r#"any_opens(["/usr/x", "/usr/bin/x", "/etc/x", "/x", "/dev/x", "/dev/shm/x", "/home/x", "/var/x", "/bin/x"], "wb")"#,
    },
    Attack {
        name: "open devices",
        held: Held::Says,
        program: r#"
try:
    os.mknod("/tmp/disk", 0o60600, os.makedev(254, 0))
    tell("made a device")
except OSError:
    any_opens(["/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/mem", "/dev/kmsg", "/dev/fuse", "/dev/kvm"])"#,
    },
    Attack {
        name: "secrets in the environment",
        held: Held::Says,
        program: r#"
more = set(os.environ) - {"PATH", "HOME", "LANG", "PWD", "PYTHONHASHSEED", "LC_CTYPE"}
tell(f"sees {sorted(more)}" if more else "held")"#,
    },
    Attack {
        name: "descriptors of the parent",
        held: Held::Says,
        program: r#"
found = []
for number in range(3, 1024):
    try:
        os.fstat(number)
        found.append(number)
    except OSError:
        pass
tell(f"has {found}" if found else "held")"#,
    },
    Attack {
        name: "connect to this machine",
        held: Held::Says,
        program: r#"
try:
    socket.create_connection(("127.0.0.1", PORT), 1)
    tell("connected")
except OSError:
    tell("held")"#,
    },
    Attack {
        name: "connect to the network",
        held: Held::Says,
        program: r#"
def reach(address):
    try:
        socket.create_connection(address, 1)
        return True
    except OSError:
        return False
names = [name for _, name in socket.if_nameindex() if name != "lo"]
abstract = socket.socket(socket.AF_UNIX)
tell("held" if not names and not reach(("1.1.1.1", 53)) and not reach(("8.8.8.8", 443)) else f"reached {names}")"#,
    },
    Attack {
        name: "become root",
        held: Held::Says,
        program: r#"
def can(call):
    try:
        call()
        return True
    except OSError:
        return False
done = [name for name, call in {
    "setuid": lambda: os.setuid(0), "setgid": lambda: os.setgid(0), "groups": lambda: os.setgroups([0]),
    "chroot": lambda: os.chroot("/tmp"), "chown": lambda: os.chown("/tmp", 0, 0), "nice": lambda: os.nice(-5),
}.items() if can(call)]
su = os.system("/usr/bin/su -c true </dev/null >/dev/null 2>&1")
tell(f"did {done} {su}" if done or su == 0 or os.getuid() == 0 else "held")"#,
    },
    Attack {
        name: "new namespaces and mounts",
        held: Held::Says,
        program: r#"
NEWUSER, NEWNS = 0x10000000, 0x20000
done = []
if libc.unshare(NEWUSER) == 0: done.append("user")
if libc.unshare(NEWNS) == 0: done.append("mounts")
if libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0: done.append("mount")
if libc.umount2(b"/usr", 2) == 0: done.append("umount")
if libc.setns(0, 0) == 0: done.append("setns")
child = libc.syscall(56, NEWUSER | NEWNS | 17, 0, 0, 0, 0) if os.uname().machine == "x86_64" else -1
if child == 0: os._exit(0)
if child > 0: done.append("clone")
tell(f"made {done}" if done else "held")"#,
    },
    Attack {
        name: "trace another process",
        held: Held::Says,
        program: r#"
done = [target for target in (0, 1, os.getppid()) if libc.ptrace(16, target, 0, 0) == 0]
if libc.ptrace(0, 0, 0, 0) == 0: done.append("traceme")
buffer = ctypes.create_string_buffer(8)
class Vector(ctypes.Structure): _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
vector = Vector(ctypes.addressof(buffer), 8)
if libc.process_vm_readv(1, ctypes.byref(vector), 1, ctypes.byref(vector), 1, 0) > 0: done.append("memory")
tell(f"traced {done}" if done else "held")"#,
    },
    Attack {
        name: "dangerous system calls",
        held: Held::Says,
        program: r#"
numbers = {"bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "io_uring_setup": 425, "keyctl": 250, "add_key": 248,
    "open_by_handle_at": 304, "kexec_load": 246, "init_module": 175, "reboot": 169, "swapon": 167, "process_vm_writev": 311}
if os.uname().machine != "x86_64":
    numbers = {}
done = [name for name, number in numbers.items() if not forbidden(number, 0, 0, 0, 0, 0, 0)]
tell(f"allowed {done}" if done else "held")"#,
    },
    Attack {
        name: "signals to the parent",
        held: Held::Says,
        program: r#"
for target in (os.getppid(), 1, -1):
    try:
        os.kill(target, signal.SIGKILL)
    except OSError:
        pass
time.sleep(0.2)
tell("held")"#,
    },
    Attack {
        name: "tricks with /proc",
        held: Held::Says,
        program: r#"
pid = os.getpid()
made = libc.mount(b"proc", b"/tmp", b"proc", 0, None) == 0
names = ["self/exe", "self/root/etc/passwd", "self/mem", "self/maps", "thread-self/environ", "1/cwd/etc/passwd", "1/mem",
    "sys/kernel/core_pattern", "sysrq-trigger", "kcore", "keys", "version", f"{pid}/fd/0", f"{os.getppid()}/fd/1"]
tell("mounted it") if made else any_opens([f"/proc/{name}" for name in names])"#,
    },
    Attack {
        name: "links in a circle, and one that changes",
        held: Held::Says,
        program: r#"
os.symlink("/tmp/b", "/tmp/a")
os.symlink("/tmp/a", "/tmp/b")
os.symlink("/" + "../" * 60 + "etc/passwd", "/tmp/far")
opened = []
if os.fork() == 0:
    for turn in range(2000):
        try:
            os.symlink("/etc/passwd" if turn % 2 else "/usr/bin/env", "/tmp/new")
            os.rename("/tmp/new", "/tmp/turning")
        except OSError:
            pass
    os._exit(0)
for _ in range(2000):
    try:
        with open("/tmp/turning", "rb") as file:
            if file.read(5) == b"root:":
                opened.append("turning")
    except OSError:
        pass
opened += [name for name in ("a", "far") if opens(f"/tmp/{name}")]
tell(f"opened {opened[:3]}" if opened else "held")"#,
    },
    Attack {
        name: "a verdict on every descriptor",
        held: Held::Says,
        program: r#"
verdict = b'{"verdict": {"passed": 9}}\n{"output": "1"}\nheld\n'
told = []
for number in [0, *range(3, 1024)]:
    for write in (os.write, lambda file, data: socket.socket(fileno=file).send(data)):
        try:
            write(number, verdict)
            told.append(number)
        except OSError:
            pass
for folder in ("/dev/fd", "/proc/self/fd", f"/proc/{os.getppid()}/fd", "/proc/1/fd"):
    for number in range(64):
        if opens(f"{folder}/{number}", "wb"):
            told.append(f"{folder}/{number}")
tell(f"told {told}" if told else "held")"#,
    },
    Attack {
        name: "stop the others",
        held: Held::Says,
        program: r#"
for number in (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN):
    for target in (os.getppid(), 1, -1):
        try:
            os.kill(target, number)
        except OSError:
            pass
    try:
        os.killpg(os.getpgid(os.getppid()), number)
    except OSError:
        pass
time.sleep(0.2)
tell("held")"#,
    },
    Attack {
        name: "type into a terminal",
        held: Held::Says,
        program: r#"
import fcntl
TIOCSTI = 0x5412
done = [number for number in range(3) if libc.ioctl(number, TIOCSTI, b"x") == 0]
tell(f"typed {done}" if done or opens("/dev/tty", "r+b") else "held")"#,
    },
    Attack {
        name: "fork bomb",
        held: Held::Time,
        program: r#"
while True:
    try:
        os.fork()
    except OSError:
        pass"#,
    },
    Attack {
        name: "threads without end",
        held: Held::Says,
        program: r#"
import threading
count = 0
try:
    while count < 1000:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        count += 1
    tell(f"{count} threads")
except (RuntimeError, MemoryError):
    tell("held")"#,
    },
    Attack {
        name: "memory of one process",
        held: Held::Says,
        program: r#"
try:
    block = b"x" * (1 << 30)
    tell(f"{len(block)} bytes")
except MemoryError:
    tell("held")"#,
    },
    Attack {
        name: "memory of many processes",
        held: Held::Memory,
        program: r#"
for _ in range(12):
    if os.fork() == 0:
        block = bytearray(os.urandom(1 << 20) * 100)
        time.sleep(60)
time.sleep(60)"#,
    },
    Attack {
        name: "memory of no process",
        held: Held::Says,
        program: r#"
kept = []
try:
    for _ in range(3):
        if os.fork() == 0:
            files = [os.memfd_create(str(index)) for index in range(40)]
            for file in files:
                os.write(file, bytes(3 << 20))
            os.write(1, b"memory files\n")
            time.sleep(60)
    time.sleep(1)
except OSError:
    pass
PRIVATE, CREATE = 0, 0o1600
if libc.shmget(PRIVATE, ctypes.c_size_t(300 << 20), CREATE) != -1: kept.append("shared memory")
if libc.msgget(PRIVATE, CREATE) != -1: kept.append("messages")
if libc.semget(PRIVATE, 32, CREATE) != -1: kept.append("semaphores")
tell(f"kept {kept}" if kept else "held")"#,
    },
    Attack {
        name: "fill the folder",
        held: Held::Says,
        program: r#"
total, index = 0, 0
try:
    while total < 1 << 30:
        with open(f"/tmp/{index}", "wb") as file:
            for _ in range(3):
                file.write(bytes(1 << 20))
                file.flush()
                total += 1 << 20
        index += 1
    tell(f"{total} bytes")
except OSError:
    tell("held")"#,
    },
    Attack {
        name: "one huge file",
        held: Held::Says,
        program: r#"
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
total = 0
try:
    with open("/tmp/huge", "wb", buffering=0) as file:
        while total < 1 << 30:
            total += file.write(bytes(1 << 20))
    tell(f"{total} bytes")
except OSError:
    tell("held")"#,
    },
    Attack {
        name: "a million tiny files",
        held: Held::Files,
        program: r#"
for index in range(1_000_000):
    os.close(os.open(f"/tmp/{index}", os.O_CREAT))
tell("made them")"#,
    },
    Attack {
        name: "output without end",
        held: Held::Output,
        program: r#"
while True:
    os.write(1, b"x" * 65536)"#,
    },
    Attack { name: "a number without end", held: Held::Time, program: "print(len(str(9**9**9)))" },
    Attack {
        name: "a pattern without end",
        held: Held::Time,
        program: r#"import re; re.match(r"(a+)+$", "a" * 64 + "b"); tell("matched")"#,
    },
    Attack {
        name: "a bomb of zeros",
        held: Held::Says,
        program: r#"
import zlib
stream = zlib.compressobj(9)
data = b"".join(stream.compress(bytes(1 << 20)) for _ in range(400)) + stream.flush()
try:
    tell(f"{len(zlib.decompress(data))} bytes")
except MemoryError:
    tell("held")"#,
    },
    Attack {
        name: "an archive that unfolds",
        held: Held::Says,
        program: r#"
import zipfile
with zipfile.ZipFile("/tmp/bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
    for index in range(8):
        with archive.open(f"{index}", "w") as file:
            for _ in range(8):
                file.write(bytes(1 << 20))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    zipfile.ZipFile("/tmp/bomb.zip").extractall("/tmp/out")
    tell("unfolded it")
except (OSError, MemoryError):
    tell("held")"#,
    },
    Attack {
        name: "a number of a terabyte",
        held: Held::Says,
        program: r#"
try:
    tell(f"{(1 << (1 << 43)).bit_length()} bits")
except (MemoryError, OverflowError):
    tell("held")"#,
    },
    Attack {
        name: "folders within folders",
        held: Held::Files,
        program: r#"
while True:
    os.mkdir("in")
    os.chdir("in")"#,
    },
    Attack {
        name: "deep nesting",
        held: Held::SaysOrEnds,
        program: r#"
import json
sys.setrecursionlimit(10**9)
nested = []
for _ in range(10**6):
    nested = [nested]
for attempt in (lambda: eval("(" * 10**5 + ")" * 10**5), lambda: json.loads("[" * 10**6), lambda: repr(nested)):
    try:
        attempt()
    except (RecursionError, MemoryError, SyntaxError, ValueError):
        pass
tell("held")"#,
    },
    Attack {
        name: "deep recursion",
        held: Held::SaysOrEnds,
        program: r#"
sys.setrecursionlimit(10**9)
class Deep:
    def __getattr__(self, name): return getattr(self, name + "x")
def deeper(n): return deeper(n + 1)
try:
    deeper(0)
except (RecursionError, MemoryError):
    tell("held")"#,
    },
    Attack { name: "a segmentation fault", held: Held::Ends, program: "ctypes.string_at(0)" },
    Attack {
        name: "a process left behind",
        held: Held::Says,
        program: r#"
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(1)
    os._exit(0)
os.wait()
tell("held")"#,
    },
    Attack {
        name: "daemons that sleep",
        held: Held::Says,
        program: r#"
for _ in range(8):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in range(1, 65):
                try:
                    signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError):
                    pass
            time.sleep(10**6)
        os._exit(0)
    os.wait()
tell("held")
os._exit(0)"#,
    },
    Attack { name: "sleep for ever", held: Held::Time, program: "time.sleep(10**6)" },
    Attack {
        name: "stop and hear nothing",
        held: Held::Deaf,
        program: "os.kill(os.getpid(), signal.SIGSTOP)",
    },
    Attack {
        name: "answer before it is asked and hear nothing",
        held: Held::Deaf,
        program: r#"
for number in range(1024):
    try:
        os.write(number, b'{"names": {}}\n' * 3)
    except OSError:
        pass
time.sleep(10**6)"#,
    },
];
