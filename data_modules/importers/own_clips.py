"""One's own clips on disk: which there are, and what is said in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from data_modules.budget import check_size
from data_modules.features.media import SOUND_ENDINGS
from data_modules.importers.transcripts import read_table
from data_modules.schema import DataError

VIDEO_ENDINGS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
MORE_SOUND_ENDINGS = (".m4a", ".aac", ".opus", ".wma", ".amr")
"""Files of sound that PyAV reads, such as phones make."""


def find_clips(sources: Sequence[Path], *, sound_alone: bool) -> tuple[dict[str, Path], list[str]]:
    """Return the clips among files and below folders, by their name, and the names of files that are no such clip.

    Those are files of sound where pictures are wanted, and whatever else is given by its own path; not what lies beside
    a clip under its name, such as a transcript.

    The name of a file is its own without the ending; below a folder it is the path from there.

    Args:
        sources: Files and folders.
        sound_alone: Whether files of sound count, because no pictures are wanted.

    Raises:
        DataError: When there is nothing at a path, no clip at all, or two clips of one name.
    """
    of_sound = (*SOUND_ENDINGS, *MORE_SOUND_ENDINGS)
    endings = (*VIDEO_ENDINGS, *(of_sound if sound_alone else ()))
    clips: dict[str, Path] = {}
    others: list[Path] = []
    for source in sources:
        if not source.exists():
            raise DataError(f"There is nothing at {source}. Give the path of a clip, or of a folder of clips.")
        files = sorted(source.rglob("*")) if source.is_dir() else [source]
        for path in files:
            if not path.is_file() or path.name.startswith("."):
                continue
            if path.suffix.lower() not in endings:
                others += [path] if path == source or path.suffix.lower() in of_sound else []
                continue
            name = (path.relative_to(source) if source.is_dir() else Path(path.name)).with_suffix("").as_posix()
            if name in clips and not path.samefile(clips[name]):
                raise DataError(f"{clips[name]} and {path} would both be the clip {name!r}. Rename one.")
            clips[name] = path
    if not clips:
        more = "" if sound_alone else "; files of sound count where no pictures are wanted (--vision none)"
        raise DataError(f"There is no clip in {', '.join(map(str, sources))}. Clips end in {', '.join(endings)}{more}.")
    stems = {path.with_suffix("") for path in clips.values()}
    return clips, [path.name for path in others if path.with_suffix("") not in stems]


def read_transcripts(table: Path | None, clips: Mapping[str, Path]) -> dict[str, str]:
    """Return what is said in the clips, by their name; clips of which nobody says it are missing.

    Args:
        table: CSV or TSV with the columns ``id`` (the name of a clip, with or without ending) and ``text``; without one
            the text stands beside each clip, in a file of the same name that ends in ``.txt``.
        clips: The clips by name.

    Raises:
        DataError: When the table is not such a one, names none of the clips, or has two rows for one.
    """
    if table is None:
        beside = {name: path.with_suffix(".txt") for name, path in clips.items()}
        # With the mark that some editors put before a text, or without.
        found = {name: _read(path) for name, path in beside.items() if path.is_file()}
        return {name: text for name, text in found.items() if text}
    by_name = read_table(table)
    if not set(by_name) & {*clips, *(name + path.suffix for name, path in clips.items())}:
        raise DataError(
            f"{table} names none of the clips: its ids are like {next(iter(by_name), '')!r}, the clips are like "
            f"{next(iter(clips))!r}."
        )
    texts = {name: by_name.get(name) or by_name.get(name + path.suffix, "") for name, path in clips.items()}
    return {name: text for name, text in texts.items() if text}


def _read(path: Path) -> str:
    try:
        check_size(path, "its text", path.stat().st_size)
        return path.read_text("utf-8-sig", "replace").strip()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Remove it or make it readable.") from error
