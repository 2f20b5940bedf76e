"""Pages of a listing, and a long one held in order."""

from __future__ import annotations

from urllib.parse import quote, quote_plus

import hypothesis.strategies as st
import pytest
from hypothesis import given

from bucket.fetch import quoted
from bucket.listing import Listing, ObjectRef, read_page, url_decoded
from push.ledger import Failures

keys = st.text(max_size=30) | st.text("ab/%=25", max_size=40)
PAGE = (
    '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    "<EncodingType>url</EncodingType><Contents><Key>a%2Fb+%2B%25C3%253A%C3%A9</Key>"
    "<LastModified>2026-11-24T10:00:00.987Z</LastModified><Size>5</Size></Contents>REST"
    "</ListBucketResult>"
)


@given(st.lists(st.tuples(st.integers(0, 3), keys), max_size=60, unique_by=lambda pair: pair[1]))
def test_a_listing_is_a_sorted_list(places: list[tuple[int, str]]) -> None:
    for listed in (sorted(places, key=lambda pair: pair[1].encode()), places):
        refs = [ObjectRef(seconds, key, len(key)) for seconds, key in listed]
        listing = Listing()
        for ref in refs:
            listing.append(ref)
        listing.sort()
        expected = sorted(refs)
        assert list(listing) == expected
        assert [listing[i] for i in range(len(listing))] == expected
        assert list(listing[2:5]) == expected[2:5]
        assert [ref.size for ref in listing] == [ref.size for ref in expected]


def test_thousands_of_long_keys_in_little_memory() -> None:
    listing = Listing()
    stem = "ibm_vpc_flowlogs_v1/" + "x" * 600
    names = [f"{stem}/hour={n:05}/{n % 7:08}.gz" for n in range(5_000)]
    for number, name in enumerate(names):
        listing.append(ObjectRef(number * 7919 % 1000, name))
    listing.sort()
    order = sorted((number * 7919 % 1000, name) for number, name in enumerate(names))
    assert [(ref.last_modified, ref.key) for ref in listing] == order
    assert len(listing._keys._rests) < 40 * len(names)


@given(st.lists(st.tuples(keys, st.sampled_from(["a: 1", "a: 2", "b"])), max_size=60))
def test_failures_are_kept_in_order(pairs: list[tuple[str, str]]) -> None:
    failures = Failures()
    for key, reason in pairs:
        failures.append(key, reason)
    assert len(failures) == len(pairs)
    assert list(failures) == pairs


def test_a_million_different_reasons_are_cut_to_their_kind() -> None:
    failures = Failures()
    for number in range(Failures._DIFFERENT_REASONS + 5):
        failures.append("key", f"bad gzip: checksum {number}")
    assert [reason for _, reason in failures][-6:] == [
        f"bad gzip: checksum {Failures._DIFFERENT_REASONS - 1}",
        *["bad gzip"] * 5,
    ]


@given(keys)
def test_keys_are_encoded_and_decoded(key: str) -> None:
    assert url_decoded(quote_plus(key)) == url_decoded(quote_plus(key, safe="/")) == key
    assert url_decoded(quote(key)) == key
    assert url_decoded(quoted(key)) == key
    assert quoted(key) == quote(key, safe="/~")


def test_a_page() -> None:
    page = read_page(PAGE.replace("REST", "<IsTruncated>false</IsTruncated>").encode())
    assert page.refs == [ObjectRef(1795514400, "a/b +%C3%3Aé")]
    assert page.refs[0].size == 5
    assert page.more is None
    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken>"
    assert read_page(PAGE.replace("REST", more).encode()).more == "x"
    assert read_page(b"<ListBucketResult/>").refs == []
    for left_out in ("", "<IsTruncated>True</IsTruncated>"):
        token = "<NextContinuationToken>x</NextContinuationToken>"
        assert read_page(PAGE.replace("REST", left_out + token).encode()).more == "x"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"<html></html>",
        PAGE.replace("REST", "<IsTruncated>true</IsTruncated>").encode(),
        PAGE.replace("REST", "<Contents><Key>a</Key></Contents>").encode(),
        PAGE.replace("<Size>5<", "<Size>-1<").encode(),
        b"<ListBucketResult><Contents><Key>a</Key><LastModified>x</LastModified><Size>1</Size>"
        b"</Contents></ListBucketResult>",
    ],
)
def test_an_unusable_page(content: bytes) -> None:
    with pytest.raises(ValueError):
        read_page(content)
