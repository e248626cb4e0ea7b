"""Write the golden outputs: `python -m golden.make` rewrites `outputs/`. Review what changed before you commit it.

The same numbers give the same bytes: entries are stored uncompressed, in a fixed order, with a fixed date. Seeds are fixed too, so on one
machine the whole folder comes out the same. Between machines the last bit of an exponential or of a matrix product may differ.
"""

import io
import json
import zipfile

import numpy as np
from jaxtyping import Float16, Shaped

from golden.cases import FOLDER, INDEX, Case
from golden.recipes import all_cases


def stored(case: Case) -> bytes:
    """The case's arrays as the bytes of an .npz file. What goes in is narrowed to float16; raises `ValueError` if that is not exact."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for part, arrays in (("inputs", case.inputs), ("weights", case.weights), ("outputs", case.outputs)):
            for name, array in arrays.items():
                entry = zipfile.ZipInfo(f"{part}/{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
                # Else these bytes say which system wrote the file.
                entry.create_system, entry.external_attr = 3, 0o644 << 16
                kept = narrowed(case.name, name, array) if part != "outputs" and array.dtype.kind == "f" else array
                content = io.BytesIO()
                np.lib.format.write_array(content, np.asarray(kept, order="C"), version=(1, 0), allow_pickle=False)
                archive.writestr(entry, content.getvalue())
    return file.getvalue()


def narrowed(case: str, name: str, array: Shaped[np.ndarray, "..."]) -> Float16[np.ndarray, "..."]:
    """`array` in float16, exactly."""
    narrow = array.astype(np.float16)
    if not np.array_equal(narrow.astype(np.float64), array):
        raise ValueError(f"{name} of {case} is not exact in float16: draw it with recipes.draw")
    return narrow


def index(of: list[Case]) -> bytes:
    """Kind and configuration of every case, as JSON."""
    entries = {case.name: {"kind": case.kind, **case.config} for case in of}
    return (json.dumps(entries, indent=1) + "\n").encode()


def files() -> dict[str, bytes]:
    """Every file of `outputs/`, made anew, by name."""
    made = all_cases()
    return {INDEX.name: index(made)} | {f"{case.name}.npz": stored(case) for case in made}


def main() -> None:
    """Rewrite `outputs/`, and remove what no recipe makes any more."""
    FOLDER.mkdir(exist_ok=True)
    made = files()
    for path in FOLDER.glob("*.npz"):
        if path.name not in made:
            path.unlink()
    for name, content in made.items():
        (FOLDER / name).write_bytes(content)
    print(f"wrote {len(made)} files, {sum(len(content) for content in made.values()) / 1e6:.2f} MB, to {FOLDER.name}/")


if __name__ == "__main__":
    main()
