# Before a program in a sandbox: what the kernel can hold each process to.
import json, os, resource, sys

# Whatever the engine's own parent left open is nobody's business here.
os.closerange(3, 1 << 20)

LIMITS = json.loads(sys.argv[1])
for _kind, _most in (
    (resource.RLIMIT_AS, LIMITS["memory"]),
    (resource.RLIMIT_FSIZE, LIMITS["file"]),
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_NOFILE, 64),
    (resource.RLIMIT_NPROC, LIMITS["processes"]),
):
    if _most is not None:
        resource.setrlimit(_kind, (_most, _most))
