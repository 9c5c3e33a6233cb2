"""Typed columns of ids, kinds of events and times, from any form in files and tables."""

from typing import Any

import polars as pl

from reg4rec.data.categories import MISSING
from reg4rec.errors import InputError, warn

__all__ = ["as_ids", "as_kinds", "as_plain_ids", "as_times", "plain_column"]

EXACT_FLOATS = 1 << 53
CLOCK = (
    r"(?:(?:T|\s+)(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?"
    r"(?:\s*(?P<half>[AaPp])[Mm])?)?\s*(?:Z|z|UTC|GMT|(?P<sign>[+-])(?P<ahead>\d{2}):?(?P<minutes>\d{2})?(?:\s*UTC)?)?$"
)
YEAR_FIRST = r"^(?P<year>\d{4})[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})" + CLOCK
YEAR_LAST = r"^(?P<one>\d{1,2})[-/.](?P<two>\d{1,2})[-/.](?P<year>\d{4})" + CLOCK


def as_plain_ids(text: pl.Series) -> pl.Series:
    """Int64 if every value is a whole number in plain form ("7", not "007"), else the unchanged text."""
    numbers = text.cast(pl.Int64, strict=False)
    alike = numbers.null_count() == text.null_count() and (numbers.cast(pl.String) == text).all()
    return numbers if alike else text


def plain_column(text: pl.Series) -> pl.Series:
    """Int64 or Float64 if every value is such a number, else the unchanged text."""
    whole = as_plain_ids(text)
    if whole.dtype != pl.String:
        return whole
    numbers = text.cast(pl.Float64, strict=False)
    zeros = text.str.contains(r"^-?0\d").any()
    return text if numbers.null_count() > text.null_count() or zeros else numbers


def as_ids(where: Any, ids: pl.Series, separated: bool = False) -> pl.Series:
    """Ids as Int64 or String, null where missing; InputError for other types.

    Empty text and texts for missing values (nan, None, null, <NA>) become null. `separated` ids come from a separated
    file: surrounding blanks are stripped, and plain whole numbers become Int64. Floats without a fraction, as in
    columns with missing values, become Int64.
    """
    if ids.dtype.is_integer():
        fits = ids.cast(pl.Int64, strict=False)
        return ids.cast(pl.String) if fits.null_count() > ids.null_count() else fits
    if ids.dtype.is_numeric():
        known = ids.cast(pl.Float64).fill_nan(None)
        whole = known.cast(pl.Int64, strict=False)
        if ((known == whole.cast(pl.Float64)) & (known.abs() < EXACT_FLOATS)).all():
            return whole
    if ids.dtype == pl.Null:
        return ids.cast(pl.String)
    if ids.dtype not in (pl.String, pl.Categorical, pl.Enum):
        raise InputError(f"column {ids.name} of {where} is {ids.dtype}; ids must be whole numbers or text")
    text = _known(ids.cast(pl.String), trimmed=separated)
    return as_plain_ids(text) if separated else text


def _known(text: pl.Series, trimmed: bool) -> pl.Series:
    """The text, null if it denotes a missing value."""
    bare = text.str.strip_chars()
    missing = bare.is_in(list(MISSING))
    return (bare if trimmed else text).set(missing.fill_null(True), None)


def as_kinds(where: Any, kinds: pl.Series) -> pl.Series:
    """Kinds of events as text, null where missing; floats without a fraction become whole numbers first."""
    if kinds.dtype.is_float() and (kinds == kinds.round()).all():
        kinds = kinds.cast(pl.Int64, strict=False)
    if kinds.dtype.is_nested() or kinds.dtype.is_temporal():
        raise InputError(f"column {kinds.name} of {where} is {kinds.dtype}; kinds must be text or numbers")
    return _known(kinds.cast(pl.String), trimmed=True)


def as_times(where: Any, time: pl.Series) -> pl.Series:
    """Times as Int64 or Float64; dates and datetimes, also as text, become microseconds since 1970 (UTC by default).

    InputError for missing times, ambiguous dates, and text that is neither a number nor a date. A warning if numbers
    seem to be in two units.
    """
    if isinstance(time.dtype, pl.Time | pl.Duration):
        raise InputError(f"column {time.name} of {where} is a time of day or a duration; join it with its date")
    if time.dtype in (pl.String, pl.Categorical, pl.Enum):
        time = _read_times(where, _known(time.cast(pl.String), trimmed=True))
    elif time.dtype.is_numeric():
        _warn_of_two_units(where, time.cast(pl.Float64))
    if not (time.dtype.is_numeric() or time.dtype.is_temporal()):
        raise InputError(f"column {time.name} of {where} is {time.dtype}; times must be numbers or dates")
    kind = pl.Int64 if time.dtype.is_integer() or time.dtype.is_temporal() else pl.Float64
    if isinstance(time.dtype, pl.Datetime) or time.dtype == pl.Date:
        time = time.cast(pl.Datetime("us"))
    numbers = time.cast(kind, strict=False)
    unknown = numbers.is_null() if kind == pl.Int64 else numbers.is_null() | ~numbers.is_finite().fill_null(False)
    if unknown.any():
        raise InputError(
            f"{where} has {unknown.sum()} rows without {time.name}, the first is row {unknown.arg_max() + 1}; "  # type: ignore[operator]
            "drop them, or give time=None"
        )
    return numbers


def _read_times(where: Any, text: pl.Series) -> pl.Series:
    """Numbers if all texts are numbers, else microseconds since 1970; null stays null."""
    for kind in (pl.Int64, pl.Float64):
        numbers = text.cast(kind, strict=False)
        if numbers.null_count() == text.null_count():
            _warn_of_two_units(where, numbers)
            return numbers
    moments = _moments(where, text)
    wrong = moments.is_null() & text.is_not_null()
    if wrong.any():
        row = int(wrong.arg_max() or 0)
        raise InputError(
            f"column {text.name} of {where} has {text[row]!r} in row {row + 1}; times must be numbers or dates such as "
            "2021-04-03 or 2021-04-03T10:00:00+02:00, all of one kind"
        )
    return moments


def _warn_of_two_units(where: Any, time: pl.Series) -> None:
    """Warn if times are in two units: below 10^10 they are seconds until 2286, above 10^11 milliseconds from 1973."""
    below, above = int((time < 10**10).sum()), int((time > 10**11).sum())
    if below and above:
        warn(
            f"column {time.name} of {where} mixes two units of time: {below:,} numbers are below 10^10, like seconds "
            f"since 1970, and {above:,} above 10^11, like milliseconds; they are sorted by number, so histories may "
            "be out of order; write all times in one unit"
        )


def _moments(where: Any, text: pl.Series) -> pl.Series:
    bare = text.str.replace(r"(?:Z| ?UTC)$", "")
    for form in ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S"):  # the most common forms, and much faster than what follows
        moments = bare.str.to_datetime(form, time_unit="us", strict=False)
        if moments.null_count() == text.null_count():
            return moments.cast(pl.Int64)
    frame = text.alias("text").to_frame()
    parts = frame.select(pl.col("text").str.extract_groups(YEAR_FIRST)).unnest("text")
    year_last = text.filter(text.str.contains(r"^\d{1,2}[-/.]\d{1,2}[-/.]\d"))
    if len(year_last):
        other = frame.select(pl.col("text").str.extract_groups(YEAR_LAST)).unnest("text")
        first, second = ((other[name].cast(pl.Int64) > 12).any() for name in ("one", "two"))
        if first == second:
            raise InputError(
                f"column {text.name} of {where} has dates such as {year_last[0]!r}, which can be read in two ways; "
                "write them with the year first (2021-04-03), or as seconds since 1970"
            )
        other = other.rename({"one": "day", "two": "month"} if first else {"one": "month", "two": "day"})
        parts = parts.select(pl.coalesce(column, other[column.name]).alias(column.name) for column in parts)
    number = {name: pl.col(name).cast(pl.Int64).fill_null(0) for name in ("hour", "minute", "second", "ahead")}
    date = pl.format("{}-{}-{}", "year", *(pl.col(name).str.zfill(2) for name in ("month", "day")))
    half = pl.col("half").str.to_lowercase()
    hour = (
        pl.when(half.is_null()).then(number["hour"]).otherwise(number["hour"] % 12 + 12 * (half == "p").cast(pl.Int64))
    )
    ahead = number["ahead"] * 60 + pl.col("minutes").cast(pl.Int64).fill_null(0)
    ahead = pl.when(pl.col("sign") == "-").then(-ahead).otherwise(ahead)
    seconds = (hour * 60 + number["minute"] - ahead) * 60 + number["second"]
    micro = pl.col("fraction").fill_null("0").str.pad_end(6, "0").str.head(6).cast(pl.Int64)
    valid = (number["hour"] < 24) & (number["minute"] < 60) & (number["second"] <= 60)
    days = date.str.to_date("%Y-%m-%d", strict=False).cast(pl.Int64)
    return parts.select(pl.when(valid).then((days * 86_400 + seconds) * 1_000_000 + micro).alias(text.name)).to_series()
