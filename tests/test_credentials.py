"""Users, passwords and keys leave every address; everything else stays."""

import pytest

from maftp.credentials import cleaned, without_credentials


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("http://ann:S3CRET@host:5000/x", "http://host:5000/x"),
        ("https://S3CRET@host", "https://host"),
        ("postgresql+psycopg://u:S3CRET%40x@db/mlflow", "postgresql+psycopg://db/mlflow"),
        ("s3://AK:S3CRET@bucket/a?endpoint_override=h", "s3://bucket/a?endpoint_override=h"),
        ("s3://b/a?region=x&secret_key=S3CRET&x=1", "s3://b/a?region=x&secret_key=***&x=1"),
        (
            "at http://u:S3CRET@h/a (401), or 'http://u:S3CRET@h'",
            "at http://h/a (401), or 'http://h'",
        ),
        ("https://h/a?X-Amz-Signature=S3CRET&sv=1", "https://h/a?X-Amz-Signature=***&sv=1"),
        ("https://h/f?sv=1&token=S3CRET", "https://h/f?sv=1&token=***"),
        ("sqlite:///results/mlflow.db", "sqlite:///results/mlflow.db"),
        ("mail me@host, s3://bucket/folder", "mail me@host, s3://bucket/folder"),
    ],
)
def test_credentials_leave_addresses(text, left):
    assert without_credentials(text) == left
    assert "S3CRET" not in without_credentials(text)
    assert without_credentials(left) == left


def test_nested_values_keep_their_shape():
    values = {"a": ["http://u:p@h", 1, None], "b": {"c": ("x", 2.5, True)}}
    assert cleaned(values) == {"a": ["http://h", 1, None], "b": {"c": ("x", 2.5, True)}}
