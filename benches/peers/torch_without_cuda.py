"""Makes the installed Linux package of torch loadable on a machine without CUDA's libraries.

torch's shared objects are linked against CUDA's (2.5 GB). This puts an empty stand-in beside them for each one
that is missing: every function torch refers to exists and returns an error, so that torch finds no GPU. It must
not be used where a GPU is to be found.
"""

import re
import subprocess
import sys
import sysconfig
import tempfile
from collections import defaultdict
from pathlib import Path

LIBRARIES = Path(sysconfig.get_path("purelib")) / "torch" / "lib"
CUDA_LIBRARY = re.compile(r"lib(cu|nv|nccl)\w*\.so.*")
CUDA_NAME = re.compile(r"(__)?(cu[A-Z]|cuda|cublas|cudnn|cufft|cufile|cupti|curand|cusolver|cusparse|nccl|nv[A-Zmrst])")
NO_DEVICE = 100  # cudaErrorNoDevice


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def missing_libraries(objects):
    """The names of CUDA's libraries that `objects` need and that do not lie beside them."""
    present = {o.name for o in objects}
    needed = {n for o in objects for n in re.findall(r"\(NEEDED\).*\[(.+)\]", output("readelf", "-dW", o))}
    return sorted(n for n in needed - present if CUDA_LIBRARY.fullmatch(n))


def library_of_version(objects):
    """Which library defines a symbol version, from the version needs of `objects`."""
    owner = {}
    for o in objects:
        library = None
        for line in output("readelf", "-VW", o).splitlines():
            if file := re.search(r"Version: \d+\s+File: (\S+)", line):
                library = file[1]
            elif library and (name := re.search(r"Name: (\S+)\s+Flags: .*Version: \d+", line)):
                owner[name[1]] = library
    return owner


def undefined_symbols(objects):
    """CUDA's functions that `objects` call and none of them defines: name to version ("" where it has none)."""
    undefined, defined = {}, set()
    for o in objects:
        for line in output("nm", "-DP", o).splitlines():
            symbol, kind = line.split()[:2]
            name, _, version = symbol.partition("@")
            if kind == "U" and CUDA_NAME.match(name):
                undefined[name] = version.strip("@")
            elif kind not in "Uwv":
                defined.add(name)
    return {n: v for n, v in undefined.items() if n not in defined}


def source_of(names):
    """C that defines the functions `names`."""
    lines = []
    for name in sorted(names):
        if re.search(r"(ErrorString|ErrorName)$", name):
            lines.append(f'const char *{name}(void) {{ return "CUDA is not installed"; }}')
        elif name.startswith("__cuda") or name in ("cudaGetLastError", "cudaPeekAtLastError"):
            # Registration of kernels, called when torch is loaded, and queries that must not fail.
            lines.append(f"long {name}(void) {{ return 0; }}")
        else:
            lines.append(f"long {name}(void) {{ return {NO_DEVICE}; }}")
    return "\n".join(lines) + "\n"


def write_stand_in(library, symbols, versions):
    """Compiles `library` with `symbols` (name to version) and at least the given symbol versions."""
    by_version = {v: [] for v in versions}
    for name, version in symbols.items():
        if version:
            by_version.setdefault(version, []).append(name)
    script = ""
    for version, names in by_version.items():
        # A version with no function still has to exist; an empty list is no valid script.
        exported = sorted(names) or ["none_of_" + re.sub(r"\W", "_", version)]
        script += f"{version} {{ global: {' '.join(n + ';' for n in exported)} }};\n"
    with tempfile.TemporaryDirectory() as folder:
        source, map_file = Path(folder, "stand_in.c"), Path(folder, "stand_in.map")
        source.write_text(source_of(symbols))
        map_file.write_text(script)
        options = ["-shared", "-fPIC", "-O1", "-w", "-fno-builtin", f"-Wl,-soname,{library}"]
        if script:
            options.append(f"-Wl,--version-script={map_file}")
        subprocess.run(["gcc", *options, "-o", LIBRARIES / library, source], check=True)


def main():
    objects = sorted(LIBRARIES.glob("*.so*"))
    if not objects:
        sys.exit(f"no shared objects in {LIBRARIES}: install torch into this environment first")
    missing = missing_libraries(objects)
    if not missing:
        print("torch misses no library")
        return
    owner = library_of_version(objects)
    # Symbols without a version bind to whichever library has them.
    anywhere = next((l for l in missing if l.startswith("libcudart")), missing[0])
    symbols = defaultdict(dict)
    for name, version in undefined_symbols(objects).items():
        library = owner.get(version)
        symbols[library if library in missing else anywhere][name] = version
    for library in missing:
        write_stand_in(library, symbols[library], [v for v, l in owner.items() if l == library])
    print(f"stand-ins for {len(missing)} libraries, {sum(map(len, symbols.values()))} functions: {', '.join(missing)}")


if __name__ == "__main__":
    main()
