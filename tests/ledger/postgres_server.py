"""A real PostgreSQL for the tests, from Debian's binaries: in a folder of its own, on a Unix socket, no port."""

import glob
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

__all__ = ["PostgresServer", "find_binaries"]


def find_binaries() -> Path | None:
    """The folder with initdb, of the newest version; None where there is none that we can run."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: int(path.split("/")[4]))
    on_path = shutil.which("initdb")
    if os.getuid() == 0 and (
        not shutil.which("runuser") or not any(user.pw_name == "postgres" for user in pwd.getpwall())
    ):
        return None  # the server refuses to run as root
    return Path(found[-1]).parent if found else Path(on_path).parent if on_path else None


class PostgresServer:
    """Start, stop, start again; `close` stops it and removes its folder."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self.folder = Path(tempfile.mkdtemp(prefix="farthing-pg-"))
        if os.getuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        self._run("initdb", "-D", str(self.folder / "data"), "-A", "trust", "-U", "farthing", "-N", "--no-instructions")
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://farthing@/postgres?host={self.folder}"

    def start(self) -> None:
        options = (
            f"-c listen_addresses='' -c unix_socket_directories='{self.folder}' -c max_connections=50 -c fsync=off"
        )
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-l", log, "-o", options, "-w", "start")

    def stop(self) -> None:
        """At once: connections are cut, as when the machine goes down."""
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")

    def close(self) -> None:
        if (self.folder / "data" / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, name: str, *arguments: str) -> None:
        command = [str(self._binaries / name), *arguments]
        if os.getuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        # The server inherits its output: a pipe would never end.
        null = subprocess.DEVNULL
        done = subprocess.run(command, stdin=null, stdout=null, stderr=null, cwd="/")
        assert done.returncode == 0, f"{name} failed with {done.returncode}"
