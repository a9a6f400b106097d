"""Callables that no checkpoint needs and that files meant to harm call: a call of one ends the reading.

This list protects nobody: whatever a file names, this reader calls nothing. It is there to tell somebody who holds such
a file what it is, before another program opens it. ``getattr``, ``operator``'s and ``functools``' are absent: pickles
of honest objects (bound methods, enumerations, partial functions) call them.
"""

from __future__ import annotations

__all__ = ["is_notorious"]

_KINDS = ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")
_BY_MODULES = {
    "builtins __builtin__ __builtins__": "eval exec execfile compile open file input __import__ apply breakpoint exit",
    "os posix nt": "system popen popen2 popen3 popen4 startfile fork forkpty kill killpg open remove unlink rmdir "
    "removedirs rename renames replace truncate chmod chown link symlink putenv posix_spawn posix_spawnp abort _exit "
    + " ".join(f"exec{kind} spawn{kind}" for kind in _KINDS),
    "subprocess commands": "Popen run call check_call check_output getoutput getstatusoutput",
    "pty": "spawn fork",
    "runpy": "run_module run_path _run_code _run_module_code",
    "importlib": "import_module __import__ reload",
    "imp": "load_source load_module load_compiled load_dynamic",
    "shutil": "rmtree move copy copyfile copytree unpack_archive",
    "socket": "socket create_connection create_server",
    "request": "urlopen urlretrieve",  # urllib's
    "webbrowser": "open open_new open_new_tab",
    "ctypes": "CDLL PyDLL WinDLL OleDLL",
    "code": "interact InteractiveInterpreter InteractiveConsole",
    "pdb bdb": "run runeval runcall Pdb Bdb",
    "timeit": "timeit repeat",
    "profile cProfile": "run runctx",
    "pickle _pickle cPickle marshal": "load loads Unpickler",
    "pip": "main",
}
_OF_MODULE = {module: names.split() for modules, names in _BY_MODULES.items() for module in modules.split()}
_ANYWHERE = {"__globals__", "__builtins__", "__subclasses__", "__import__", "__loader__", "__code__"}


def is_notorious(name: str) -> bool:
    """Whether this is one of them; another module may lead to its module, as in ``torch.serialization.os.system``."""
    *modules, last = name.split(".")
    return last in _OF_MODULE.get(modules[-1] if modules else "", ()) or not _ANYWHERE.isdisjoint([*modules[1:], last])
