"""Object stores for tests: in memory, and S3 as moto's server speaks it. Test files import the fixtures."""

from __future__ import annotations

import uuid

import pytest
from moto.server import ThreadedMotoServer


@pytest.fixture(scope="module")
def s3_bucket():
    """A bucket of a local server; the environment says where it is."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patched:
        host, port = server.get_host_and_port()
        patched.setenv("AWS_ENDPOINT_URL", f"http://{'localhost' if host == '0.0.0.0' else host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patched.setenv(name, "test")
        patched.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        # Servers in one process have the same buckets.
        if not s3fs.S3FileSystem().exists("bucket"):
            s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket"
    server.stop()


@pytest.fixture(params=["memory", "s3"])
def url(request):
    root = request.getfixturevalue("s3_bucket") if request.param == "s3" else "memory://bucket"
    return f"{root}/{uuid.uuid4().hex}"
