import pytest

from vlmgym.serving.access import is_loopback, required_key

SHA256_OF_A = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "serve.example.org"])
def test_a_key_is_required_where_others_can_ask(host):
    with pytest.raises(ValueError, match=f"required to listen at {host}"):
        required_key(None, {"VLMGYM_API_KEY": ""}, host)
    assert required_key(None, {"VLMGYM_API_KEY": "a"}, host) == SHA256_OF_A
    assert required_key(SHA256_OF_A, {"VLMGYM_API_KEY": "other"}, host) == SHA256_OF_A


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost", None])
def test_no_key_is_required_where_only_this_machine_can_ask(host):
    assert required_key(None, {}, host) is None
    assert host is None or is_loopback(host)
