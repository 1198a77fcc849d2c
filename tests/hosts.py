"""Hosts for tests: network namespaces of this machine, each with an address, a host name, processes, an
sshd, a home, /tmp, /etc and /dev/shm of its own. They reach each other alone. Needs root, iproute2,
iptables, openssh-server and rsync.
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from conftest import ROOT

NEEDED = ("ip", "iptables", "nsenter", "rsync", "setpriv", "ssh-keygen", "sshd", "unshare")
SYSTEM = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BIN = Path(sys.executable).parent
USER, UID = "ray", 4242  # of the image, in whose home cluster.yaml puts the token
HOME = f"/home/{USER}"
NETWORK = "10.77.0"
# Folders of this machine that a host has an own one of.
OWN = ("tmp", "home", "root", "etc", "run")

INIT = """
set -e
hostname {name}
mount --make-rprivate /
i=0
for seen in {visible}; do  # what lies below a folder that is covered next
    mkdir -p {folder}/keep/$i; mount --bind $seen {folder}/keep/$i; i=$((i + 1))
done
for own in {own}; do mount --bind {folder}/$own /$own; done
i=0
for seen in {visible}; do
    mkdir -p $seen; mount --bind {folder}/keep/$i $seen; i=$((i + 1))
done
mount -t tmpfs -o mode=1777,size={shm} none /dev/shm
/usr/sbin/sshd -e
while true; do sleep 3600 & wait $!; done
"""


def missing():
    """Why hosts can't be made here; empty where they can."""
    absent = [name for name in NEEDED if shutil.which(name, path=SYSTEM) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    if os.geteuid() != 0:
        return "network namespaces need root"
    tried = run("unshare", "--net", "--mount", "--pid", "--uts", "--fork", "true", check=False)
    return tried.stderr.strip() if tried.returncode else ""


def run(*command, check=True, **options):
    """A command of this machine; what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert not check or done.returncode == 0, f"{shlex.join(command)}: {done.stdout}{done.stderr}"
    return done


class Host:
    """A host: ``address``, ``folder`` (where its own folders are on this machine)."""

    def __init__(self, hosts, name, number, variables):
        self.name, self.address = name, f"{NETWORK}.{number}"
        self.folder = hosts.folder / name
        self.process = None
        self.namespace = f"psr-{hosts.mark}-{name}"
        self.link = f"p{hosts.mark}n{number}"  # 15 characters at most
        self.environment = {
            "HOME": HOME,
            "USER": USER,
            "PATH": f"{BIN}:{SYSTEM}",
            "LANG": "C.UTF-8",
        }
        self.environment |= variables
        run("ip", "netns", "add", self.namespace)
        run(
            "ip", "link", "add", self.link, "netns", hosts.switch, "type", "veth",
            "peer", "name", "eth0", "netns", self.namespace,
        )  # fmt: skip
        run("ip", "-n", hosts.switch, "link", "set", self.link, "master", "switch", "up")
        inside = ("ip", "-n", self.namespace)
        run(*inside, "address", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            run(*inside, "link", "set", device, "up")
        run(*inside, "route", "add", "default", "via", f"{NETWORK}.254")
        self._furnish(hosts.key)

    def start(self, shm="8g"):
        """Switch it on; it is up when its sshd listens."""
        script = self.folder / "init.sh"
        script.write_text(
            INIT.format(
                name=self.name,
                folder=self.folder,
                own=" ".join(OWN),
                shm=shm,
                visible=" ".join(visible()),
            )
        )
        with (self.folder / "init.log").open("w") as log:
            self.process = subprocess.Popen(
                [
                    "ip", "netns", "exec", self.namespace, "unshare", "--mount", "--uts", "--ipc",
                    "--pid", "--fork", "--kill-child", "--mount-proc", "bash", str(script),
                ],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        for _ in range(100):
            assert self.process.poll() is None, (self.folder / "init.log").read_text()
            if self._listens():
                [self.init] = psutil.Process(self.process.pid).children()
                return
            time.sleep(0.1)
        raise AssertionError((self.folder / "init.log").read_text())

    def _listens(self):
        asked = ("ss", "-ltnH", "sport = :22")
        return run("ip", "netns", "exec", self.namespace, *asked).stdout != ""

    def _furnish(self, key):
        """The host's own folders."""
        for name in OWN:
            (self.folder / name).mkdir(parents=True)
        (self.folder / "tmp").chmod(0o1777)
        (self.folder / "run" / "sshd").mkdir()
        etc = self.folder / "etc"
        shutil.copytree("/etc", etc, symlinks=True, dirs_exist_ok=True)
        (etc / "hostname").write_text(f"{self.name}\n")
        (etc / "nsswitch.conf").write_text("hosts: files\n")
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n")
        with (etc / "passwd").open("a") as file:
            file.write(f"{USER}:x:{UID}:{UID}::{HOME}:/bin/bash\n")
        with (etc / "group").open("a") as file:
            file.write(f"{USER}:x:{UID}:\n")
        with (etc / "shadow").open("a") as file:
            file.write(f"{USER}:*:19000:0:99999:7:::\n")
        (etc / "ssh" / "sshd_config").write_text(
            f"UsePAM no\nPasswordAuthentication no\nHostKey {hosts_key(etc)}\nAcceptEnv LANG\n"
        )
        lines = [f"export {name}={shlex.quote(value)}" for name, value in self.environment.items()]
        (etc / "profile.d" / "host.sh").write_text("\n".join(lines) + "\n")
        ssh = self.folder / HOME[1:] / ".ssh"
        ssh.mkdir(parents=True, mode=0o700)
        shutil.copy(f"{key}.pub", ssh / "authorized_keys")
        for path in (ssh.parent, *ssh.parent.rglob("*")):
            os.chown(path, UID, UID)

    def inside(self, *command, user=UID, **variables):
        """A command of this machine that runs ``command`` on the host."""
        settings = [f"{name}={value}" for name, value in (self.environment | variables).items()]
        return [
            "nsenter", "--target", str(self.init.pid), "--net", "--mount", "--uts", "--ipc", "--pid",
            "setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups",
            "env", "-i", f"--chdir={HOME}", *settings, *map(str, command),
        ]  # fmt: skip

    def run(self, *command, user=UID, check=True, timeout=120, stdin="", **variables):
        """A command on the host; what it printed."""
        done = subprocess.run(
            self.inside(*command, user=user, **variables), capture_output=True, text=True,
            check=False, timeout=timeout, input=stdin,
        )  # fmt: skip
        assert not check or done.returncode == 0, (
            f"{self.name}: {shlex.join(map(str, command))} ended with {done.returncode}\n"
            f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        )
        return done

    @contextlib.contextmanager
    def running(self, *command, log, user=UID, **variables):
        """A command on the host while the block runs; ``log`` is a file of this machine."""
        with log.open("w") as file:
            process = subprocess.Popen(
                self.inside(*command, user=user, **variables), stdout=file, stderr=file,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        try:
            yield process
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.send_signal(signal.SIGTERM)
            process.wait(60)

    def processes(self, *marks):
        """What runs on the host (in its PID namespace) with one of the marks in its command line."""
        mine = os.readlink(f"/proc/{self.init.pid}/ns/pid")
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                if os.readlink(f"/proc/{process.pid}/ns/pid") == mine:
                    line = " ".join(process.cmdline())
                    found += [process] if any(mark in line for mark in marks) else []
        return found

    def left(self, *marks):
        """Of such processes, those that have not ended within half a minute."""
        return psutil.wait_procs(self.processes(*marks), timeout=30)[1]

    def path(self, inside):
        """Where a path of the host's own folders is on this machine."""
        return self.folder / str(inside).lstrip("/")

    def firewall(self, *rule):
        """An iptables rule on the host, as after ``iptables``."""
        run("ip", "netns", "exec", self.namespace, "iptables", *rule)

    @contextlib.contextmanager
    def dropping(self, *kinds):
        """Packets are dropped while the block runs; a kind is a chain and what matches in it."""
        for kind in kinds:
            self.firewall("-A", *kind, "-j", "DROP")
        try:
            yield
        finally:
            for kind in kinds:
                self.firewall("-D", *kind, "-j", "DROP")

    def add_interface(self, name, address):
        """Another interface, which leads nowhere."""
        run("ip", "-n", self.namespace, "link", "add", name, "type", "veth", "peer", f"{name}-far")
        run("ip", "-n", self.namespace, "address", "add", f"{address}/16", "dev", name)
        for each in (name, f"{name}-far"):
            run("ip", "-n", self.namespace, "link", "set", each, "up")

    def cut(self):
        """Pull the cable."""
        run("ip", "-n", self.namespace, "link", "set", "eth0", "down")

    def mend(self):
        """Plug it in again."""
        run("ip", "-n", self.namespace, "link", "set", "eth0", "up")
        run("ip", "-n", self.namespace, "route", "replace", "default", "via", f"{NETWORK}.254")

    def off(self):
        """The power goes: all its processes with it. ``start`` switches it on again."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()  # its child, the host's first process, ends with it
            self.process.wait(60)
            for _ in range(200):  # and so do all others, a little later
                if not self._listens():
                    break
                time.sleep(0.05)

    def end(self):
        """Switch it off and take it away."""
        self.off()
        run("ip", "netns", "delete", self.namespace, check=False)


class Hosts:
    """Hosts on one switch; ``key`` is the private key that all of them accept."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="psr-hosts-", dir="/var/tmp"))
        self.folder.chmod(0o755)
        self.mark = f"{os.getpid() % 2**24:x}"
        self.switch = f"psr-{self.mark}-switch"
        self.hosts = {}
        run("ip", "netns", "add", self.switch)
        run("ip", "-n", self.switch, "link", "add", "switch", "type", "bridge")
        run("ip", "-n", self.switch, "address", "add", f"{NETWORK}.254/24", "dev", "switch")
        run("ip", "-n", self.switch, "link", "set", "switch", "up")
        self.key = self.folder / "key"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))

    def add(self, name, shm="8g", **variables):
        """A host that is up; ``variables`` are in the environment of all that runs on it."""
        host = self.hosts[name] = Host(self, name, len(self.hosts) + 1, variables)
        host.start(shm)
        return host

    def end(self):
        """All of them, and what they wrote."""
        for host in self.hosts.values():
            host.end()
        run("ip", "netns", "delete", self.switch, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


def hosts_key(etc):
    """A host's own key; where sshd finds it."""
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(etc / "ssh" / "host_key"))
    return "/etc/ssh/host_key"


def visible():
    """What a host sees of this machine below the folders that it has an own one of."""
    wanted = {ROOT, Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
    return sorted(str(path) for path in wanted if path.parts[1] in OWN)
