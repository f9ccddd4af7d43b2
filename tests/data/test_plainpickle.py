from __future__ import annotations

import os
import pickle
from typing import Any

import numpy as np
import pytest

from dimwise.data.plainpickle import loads
from dimwise.errors import DataError

BATCH: dict[str, Any] = {
    "batch_label": "training batch 1 of 5",
    "labels": [6, 9, 300, 70000],
    "data": np.arange(12, dtype=np.uint8).reshape(3, 4),
    "filenames": ["a.png", "ä.png"],
    "raw": b"\x00\xff",
    "none": None,
    "shape": (1, (2, 3)),
    "yes": True,
}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_every_protocol_reads_back(protocol):
    found = loads(pickle.dumps(BATCH, protocol=protocol), "batch")
    assert np.array_equal(found.pop("data"), BATCH["data"])
    assert found == {key: value for key, value in BATCH.items() if key != "data"}


@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i4", "<f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_array_types_and_orders(dtype, order):
    array = np.asarray(np.arange(6).reshape(2, 3), dtype=dtype, order=order)
    found = loads(pickle.dumps({"data": array}, protocol=2), "batch")["data"]
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


def test_byte_keys_of_python_2_become_text():
    assert loads(pickle.dumps({b"labels": [1]}, protocol=3), "batch") == {"labels": [1]}


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_call_of_anything_else_is_refused_and_not_made(tmp_path, protocol):
    evil = pickle.dumps({"data": Call(os.mkdir, str(tmp_path / "made"))}, protocol=protocol)
    with pytest.raises(DataError, match=r"data_batch_1 asks for '(posix|nt)\.mkdir' at byte \d+"):
        loads(evil, "data_batch_1")
    assert not (tmp_path / "made").exists()
    with pytest.raises(DataError, match=r"data_batch_1 asks for '.*exec'"):
        loads(pickle.dumps({"data": Call(exec, "raise SystemExit")}, protocol=protocol), "data_batch_1")


def test_allowed_names_may_not_be_called_with_anything_else():
    # numpy.dtype("O") would open the door to objects; _codecs.encode to any codec
    objects = b"\x80\x02cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R."
    with pytest.raises(DataError, match=r"a call of 'numpy dtype' with \('O8', 0, 1\)"):
        loads(objects, "x")
    codec = b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R."
    with pytest.raises(DataError, match=r"a call of '_codecs encode'"):
        loads(codec, "x")
    with pytest.raises(DataError, match=r"the operation NEWOBJ"):
        loads(b"\x80\x02cnumpy\nndarray\n)\x81.", "x")
    with pytest.raises(DataError, match=r"a call of 'numpy ndarray'"):
        loads(b"\x80\x02cnumpy\nndarray\nK\x05\x85R.", "x")


@pytest.mark.parametrize("cut", [0, 1, 40, 200, -2])
def test_a_damaged_pickle_is_one_clear_error(cut):
    whole = pickle.dumps(BATCH, protocol=2)
    with pytest.raises(DataError, match=r"batch is a (damaged pickle|pickle without an end)"):
        loads(whole[:cut], "batch")


def test_an_array_whose_bytes_do_not_fit_its_shape():
    whole = pickle.dumps({"data": np.zeros((3, 4), np.uint8)}, protocol=2)
    with pytest.raises(DataError, match="damaged pickle"):
        loads(whole.replace(b"K\x03K\x04\x86", b"K\x03K\x05\x86"), "batch")


@pytest.mark.parametrize("content", [b"not a pickle", b"<!DOCTYPE html>", b"\x80\x02]]s.", b"\x80\x02e.", b"\x80\x02."])
def test_rubbish(content):
    with pytest.raises(DataError, match="rubbish"):
        loads(content, "rubbish")
