# SPDX-License-Identifier: MulanPSL-2.0
"""Run a program with io_uring_setup(2) denied by seccomp, as container engines do.

python3 seccomp_deny.py ERRNO PROGRAM...    or "kill" in place of ERRNO
"""

import ctypes
import os
import platform
import struct
import sys

IO_URING_SETUP = {"x86_64": 425, "aarch64": 425}
GETRANDOM = {"x86_64": 318, "aarch64": 278}
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD_NUMBER, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def deny(error, call=IO_URING_SETUP):
    """From here on a system call fails with this errno in this process and its children.

    KILL in place of the errno: it ends the process.
    """
    instruction = struct.Struct("=HBBI")
    code = b"".join([
        instruction.pack(LOAD_NUMBER, 0, 0, 0),
        instruction.pack(JUMP_EQUAL, 0, 1, call[platform.machine()]),
        instruction.pack(RETURN, 0, 0, KILL if error == KILL else ERRNO | error),
        instruction.pack(RETURN, 0, 0, ALLOW),
    ])
    buffer = ctypes.create_string_buffer(code, len(code))
    program = Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
                      (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    deny(KILL if sys.argv[1] == "kill" else int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
