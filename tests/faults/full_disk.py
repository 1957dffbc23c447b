"""Call commands on a real disk that is full, or fills up; say how each went.

``unshare --map-root-user --mount python -m tests.faults.full_disk FOLDER < POINTS``

A point is a command and one of: the bytes that are ``free`` before it; the operation
before which the disk fills up but for the bytes ``left``, the ``number``-th of ``of``
that are spread over all operations that write; ``read_only``; ``limit``, the bytes that
a file may have; ``stdout``, the file that standard output is. The disk is a small tmpfs
which only this process sees. A ballast file takes its room; it goes away afterwards,
and the same command must then give what it gives on a disk with room. One process for
all, because starting one for each takes seconds.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from energyflow_mlx.data.captions.generate import generate_captions
from tests.in_process import call

SIZE = 96 * 2**20
SMALL = [
    *("+experiment=smoke", "data.train=good.txt", "trainer.decode_samples=2"),
    *("encoder.dim=16", "encoder.hidden=16", "decoder.dim=16", "decoder.hidden=16"),
    *("tokenizer=bpe", "tokenizer.bpe_size=300"),  # loads faster than the teacher's
]
TRAIN = [
    *(*SMALL, "trainer.max_steps=4", "trainer.validate_every=2"),
    *("trainer.log_every=2", "trackers=[csv]"),
]
COMMANDS = {
    "train": ["train", *TRAIN, "run.dir=new", "teacher.cache_dir=fresh"],
    "prepare": ["prepare", "input=good.txt", "output=out.efb", "tokens=true"],
    "encode": ["encode", "run=run", "input=good.txt", "output=out.npy"],
    "decode": ["decode", "run=run", "input=good.npy", "output=out.txt"],
    "evaluate": ["evaluate", "run=run", "data.val=held.txt", "decode_samples=2"],
    "evaluate again": ["evaluate", "run=run", "decode_samples=2"],
    "export": ["export", "run=run", "output=model"],
    "export weights": ["export", "run=run", "output=model.safetensors"],
    "export projection": ["export", "run=run", "output=model.efck1"],
    "plot": ["plot", "run=run"],
    "profile": ["profile", "run=run", "updates=4"],
}
# What differs between two runs that are the same: times, and what follows from them,
# digests of what holds times among them; weights are compared as files of their own.
_OF_TIME = re.compile(
    r'"traces": \{[^}]*\}'  # of the process that wrote the summary
    r'|"(\w*seconds\w*|\w*_ms|samples_per_second|sha256|digest|log)": [^,}\n]+'
)


@dataclasses.dataclass
class Watch:
    """Counts the operations that write below a folder; fills its disk before one."""

    folder: str
    at: int = 0
    left: int = 0
    count: int = 0
    is_on: bool = False

    def __call__(self, event, arguments):
        """Audit hook of the interpreter."""
        if not self.is_on or not self._writes(event, arguments):
            return
        self.count += 1
        if self.count == self.at:
            self.is_on = False
            fill(Path(self.folder), self.left)
            self.is_on = True

    def _writes(self, event, arguments):
        if event not in ("open", "os.mkdir"):
            return False
        name = arguments[0]
        if not isinstance(name, str | bytes | os.PathLike):
            return False
        if not os.path.abspath(os.fsdecode(name)).startswith(self.folder):
            return False
        return event != "open" or bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))


def fill(folder, left):
    """Take up the disk of a folder but for some bytes; tmpfs deals in pages."""
    here = os.statvfs(folder)
    size = max(0, here.f_bavail * here.f_frsize - left)
    with open(folder.parent / "ballast", "ab") as ballast:
        if size:
            os.posix_fallocate(ballast.fileno(), ballast.tell(), size)


def listing(folder):
    """Every file and folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def result(folder, printed):
    """Digest of every file, without times; and of the figures that were printed."""
    digests = {"printed": hashed(printed.splitlines()[-1])} if "{" in printed else {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and path.suffix in (".json", ".jsonl"):
            digests[name] = hashed(_records(path))
        elif path.is_file() and not name.startswith(("good", "new/trackers")):
            if path.suffix not in (".png", ".html"):
                digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return {k: v for k, v in digests.items() if "profile" not in k and "lock" not in k}


def hashed(text):
    """Digest of a text without times and digests of what holds times."""
    return hashlib.sha256(_OF_TIME.sub("", text).encode()).hexdigest()


def _records(path):
    """Lines of a file but those that only say times, or digests of times."""
    text = path.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if '"kind": "timing"' not in line]
    return "\n".join(re.sub(r'"(sha256|digest)": "\w+"', "", line) for line in lines)


class Disk:
    """A mounted tmpfs with a folder of small files, made anew for every command."""

    def __init__(self, pristine, mount):
        mount.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(mount)]
        subprocess.run(["mount", *options], check=True)
        self.pristine, self.work = pristine, mount / "work"
        self.ballast = mount / "ballast"
        self.watch = Watch(str(self.work))
        sys.addaudithook(self.watch)

    def renew(self):
        """Room, and the files as they were."""
        os.chdir("/")
        self.ballast.unlink(missing_ok=True)
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.pristine, self.work)
        os.chdir(self.work)

    def run(self, words, at=0, left=0, stdout=None):
        """Call a command, with the disk filling up before an operation; 0 = never."""
        self.watch.at, self.watch.left, self.watch.count = at, left, 0
        self.watch.is_on = True
        found = call(words, stdout)
        self.watch.is_on = False
        return found

    @contextlib.contextmanager
    def spoilt(self, point):
        """The disk as a point wants it before the command."""
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        if "free" in point:
            fill(self.work, point["free"])
        if "read_only" in point:
            self._remount("ro")
        if "limit" in point:
            resource.setrlimit(resource.RLIMIT_FSIZE, (point["limit"], limits[1]))
        yield
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        if "read_only" in point:
            self._remount("rw")

    def _remount(self, way):
        options = f"remount,{way},size={SIZE}"
        subprocess.run(["mount", "-o", options, str(self.work.parent)], check=True)

    def outcome(self, point, undisturbed):
        """One point; see the module."""
        words = COMMANDS[point["command"]]
        self.renew()
        before, others = listing(self.work), set(os.listdir(tempfile.gettempdir()))
        at = 0
        if "number" in point:
            share = (point["number"] - 1) / max(1, point["of"] - 1)
            at = 1 + round(share * (undisturbed["operations"] - 1))
        with self.spoilt(point):
            left, stdout = point.get("left", 0), point.get("stdout")
            status, out, err = self.run(words, at, left, stdout)
        after = listing(self.work)
        left_over = set(os.listdir(tempfile.gettempdir())) - others
        self.ballast.unlink(missing_ok=True)
        again, printed, _ = self.run(words)
        found = result(self.work, printed)
        wanted = undisturbed["result"]
        names = found.keys() | wanted.keys()
        return {
            **{"at": at, "status": status, "out": out, "err": err, "again": again},
            "new": sorted(set(after) - set(before) | left_over),
            "different": sorted(n for n in names if found.get(n) != wanted.get(n)),
        }


def write_files(folder):
    """The files that the commands name, and a run."""
    folder.mkdir()
    os.chdir(folder)
    captions = generate_captions(60, 1)
    Path("good.txt").write_text("\n".join(captions[:40]) + "\n")
    Path("held.txt").write_text("\n".join(captions[40:]) + "\n")
    rows = np.random.default_rng(0).normal(size=(40, 384)).astype(np.float32)
    np.save("good.npy", rows)
    words = ["trainer.max_steps=2", "run.dir=run", "teacher.cache_dir=cache"]
    status, out, err = call(["train", *SMALL, *words])
    assert status == 0, out + err


def main():
    """See the module."""
    folder = Path(sys.argv[1])
    points = json.load(sys.stdin)
    # Python's temporary files alone; MLX shares its compiled expressions with others.
    tempfile.tempdir = str(folder / "temporary")
    os.mkdir(tempfile.tempdir)
    write_files(folder / "pristine")
    disk = Disk(folder / "pristine", folder / "disk")
    undisturbed, outcomes = {}, []
    for point in points:
        name = point["command"]
        if name not in undisturbed:
            disk.renew()
            status, out, err = disk.run(COMMANDS[name])
            assert status == 0, out + err
            operations = disk.watch.count
            found = result(disk.work, out)
            undisturbed[name] = {"operations": operations, "result": found, "out": out}
        outcomes.append(disk.outcome(point, undisturbed[name]))
    json.dump({"undisturbed": undisturbed, "outcomes": outcomes}, sys.stdout)


if __name__ == "__main__":
    main()
