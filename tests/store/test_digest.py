import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacuna.errors import OptionError
from lacuna.store import Key

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


def digest(**parameters: object) -> str:
    return Key("map", parameters).digest  # type: ignore[arg-type]


def test_digest__this_version_of_the_canonical_form_never_changes():
    key = Key("map", {"rule": "segment", "size_mm": [2.0, 0.1, -0.0]}, {"tractogram": "ab" * 16})
    assert key.digest == "06006805f6b2b7a5b2c5d048ccde7e1a50292cd0a1d0f06378e2fefff803e5ef"


def test_digest__order_of_names_and_kind_of_sequence_do_not_matter():
    assert digest(a=[1, 2], b=None) == digest(b=None, a=(1, 2))


def test_digest__floats_that_are_integers_equal_them():
    assert digest(size=2.0) == digest(size=2)


def test_digest__minus_zero_is_zero():
    assert digest(x=-0.0) == digest(x=0.0) == digest(x=0)


def test_digest__true_is_not_one_and_text_is_not_a_number():
    assert len({digest(x=True), digest(x=1), digest(x="1"), digest(x=None)}) == 4


def test_digest__neighbouring_floats_differ():
    assert digest(x=0.1) != digest(x=math.nextafter(0.1, 1))


def test_digest__a_numpy_float64_equals_its_python_value():
    assert digest(x=np.float64(0.1)) == digest(x=0.1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_digest__numbers_that_are_not_finite_are_refused(value):
    with pytest.raises(OptionError, match="cannot hold"):
        digest(x=[value])


@pytest.mark.parametrize("value", [np.int64(1), b"x", {1, 2}, object(), {1: "x"}])
def test_digest__what_is_not_json_is_refused_at_once(value):
    with pytest.raises(OptionError):
        digest(x=value)


def test_digest__the_label_is_for_people_only():
    assert Key("map", label="this").digest == Key("map", label="that").digest


def test_digest__product_parameters_and_inputs_are_kept_apart():
    keys = [
        Key("map", {"a": "b"}),
        Key("hits", {"a": "b"}),
        Key("map", {}, {"a": "b"}),
        Key("map", {"inputs": {"a": "b"}}),
    ]
    assert len({key.digest for key in keys}) == 4


def test_key__an_unknown_product_names_the_known_ones():
    with pytest.raises(OptionError, match="hits, map, resampled, streamlines, unpacked"):
        Key("maps")


def test_key__another_packages_product_has_a_bucket_and_a_version_of_its_own():
    key = Key("mylab.surfaces", {"side": "left"})
    assert key.location.startswith("others/v1/")
    assert key.identity["version"] == 1
    assert key.digest == Key("mylab.surfaces", {"side": "left"}, version=1).digest
    assert key.digest != Key("mylab.surfaces", {"side": "left"}, version=2).digest
    assert key.digest != Key("yourlab.surfaces", {"side": "left"}).digest


@pytest.mark.parametrize("name", ["", ".", "mylab.", ".map", "a..b", "../x.y", "my lab.x", "A.b/c"])
def test_key__a_name_that_is_no_name_is_refused(name):
    with pytest.raises(OptionError, match=r"'package\.product'"):
        Key(name)


def test_key__the_version_of_our_own_products_stands_in_the_table():
    with pytest.raises(OptionError, match="not for you"):
        Key("map", version=2)


@given(value=JSON)
def test_digest__every_json_value_has_one_that_survives_canonical_form(value):
    from lacuna.store._digest import canonical, digest_of

    once = canonical(value)
    assert digest_of(canonical(once)) == digest_of(once)


@given(x=st.floats(allow_nan=False, allow_infinity=False))
def test_digest__a_float_is_written_so_that_it_reads_back_the_same(x):
    import json

    from lacuna.store._digest import canonical

    assert json.loads(json.dumps(canonical(x))) == x
