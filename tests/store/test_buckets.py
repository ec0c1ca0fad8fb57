import ast
from pathlib import Path

from lacuna.store import buckets


def test_products__each_lies_in_a_bucket():
    assert {bucket for bucket, _ in buckets.PRODUCTS.values()} <= set(buckets.BUCKETS)


def test_products__none_of_ours_can_be_taken_for_another_packages():
    assert not [product for product in buckets.PRODUCTS if "." in product]
    assert buckets.OTHERS in buckets.BUCKETS
    assert buckets.OTHERS not in {bucket for bucket, _ in buckets.PRODUCTS.values()}


def test_buckets__imports_nothing():
    tree = ast.parse(Path(buckets.__file__).read_text(encoding="utf-8"))
    assert not any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(tree))
