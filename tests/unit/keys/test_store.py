"""The key store: private, durable, and one node's only."""

import base64
import errno
import os
import resource
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from linkseal.keys.ca import CertificateAuthority, generate_identity
from linkseal.keys.errors import HostError
from linkseal.keys.generations import announced, first
from linkseal.keys.secrets import PrivateKey
from linkseal.keys.store import KeyStore, StoreOwner, atomic_write, load_authority, save_authority

NOW = datetime(2026, 11, 2, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    store = KeyStore(tmp_path / "state")
    store.open("n1", "u1", "c1")
    return store


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and change time of everything below: any write changes it."""
    return {str(p): (p.stat().st_ino, p.stat().st_ctime_ns) for p in [folder, *folder.rglob("*")]}


def test_what_is_stored_is_loaded_by_another_process(store: KeyStore) -> None:
    key, identity, gens = PrivateKey.generate(), generate_identity(), announced(first(NOW), 1)
    store.save_key(1, key)
    store.save_identity(identity)
    store.save_generations(gens)
    store.save_certificate("CERT")
    store.save_ca_bundle("CA")
    again = KeyStore(store.state_dir)
    assert again.open("n1", "u1", "c1") == StoreOwner("n1", "u1", "c1")
    loaded, loaded_identity = again.load_key(1), again.load_identity()
    assert loaded is not None
    assert loaded.public_key == key.public_key
    assert loaded_identity is not None
    assert loaded_identity.private_numbers() == identity.private_numbers()
    assert again.load_generations() == gens
    assert (again.load_certificate(), again.load_ca_bundle()) == ("CERT", "CA")
    assert again.key_numbers() == (1,)


def test_an_empty_store_says_none(store: KeyStore) -> None:
    empty = KeyStore(store.state_dir / "never")
    assert (empty.owner(), empty.load_key(1), empty.load_identity(), empty.load_generations()) == (None,) * 4
    assert (empty.load_certificate(), empty.load_ca_bundle(), empty.key_numbers()) == (None, None, ())


def test_permissions_hold_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = KeyStore(tmp_path / "state")
        store.open("n1", "u1", "c1")
        store.save_key(1, PrivateKey.generate())
        store.save_identity(generate_identity())
    finally:
        os.umask(before)
    assert mode(store.state_dir) == mode(store.state_dir / "keys") == 0o700
    assert mode(store.state_dir / "keys" / "gen-1.key") == mode(store.state_dir / "identity.key") == 0o600


def test_storing_the_same_again_writes_nothing(store: KeyStore) -> None:
    key, identity, gens = PrivateKey.generate(), generate_identity(), first(NOW)

    def save_all() -> None:
        store.open("n1", "u1", "c1")
        store.save_key(1, key)
        store.save_identity(identity)
        store.save_generations(gens)
        store.save_ca_bundle("CA")

    save_all()
    before = tree(store.state_dir)
    save_all()
    assert tree(store.state_dir) == before


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o602])
@pytest.mark.parametrize(
    ("name", "load"), [("keys/gen-1.key", lambda store: store.load_key(1)), ("identity.key", KeyStore.load_identity)]
)
def test_a_key_file_open_to_others_is_refused_with_the_command_to_run(
    store: KeyStore, name: str, load: Callable[[KeyStore], object], bits: int
) -> None:
    store.save_key(1, PrivateKey.generate())
    store.save_identity(generate_identity())
    path = store.state_dir / name
    path.chmod(bits)
    with pytest.raises(HostError) as caught:
        load(store)
    assert f"chmod 600 {path}" in str(caught.value)


def test_an_empty_state_folder_is_made_private_since_kubelets_make_it_readable(tmp_path: Path) -> None:
    folder = tmp_path / "linkseal"
    folder.mkdir()
    folder.chmod(0o755)
    KeyStore(folder).open("n1", "uid-1", "c1")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_state_folder_open_to_others_is_refused(store: KeyStore) -> None:
    store.state_dir.chmod(0o755)
    with pytest.raises(HostError, match=f"chmod 700 {store.state_dir}"):
        store.open("n1", "u1", "c1")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_file_of_another_user_is_refused(store: KeyStore) -> None:
    store.save_key(1, PrivateKey.generate())
    os.chown(store.state_dir / "keys/gen-1.key", 65534, 65534)
    with pytest.raises(HostError, match="belongs to user 65534"):
        store.load_key(1)


def test_a_link_in_place_of_a_key_is_not_followed(store: KeyStore, tmp_path: Path) -> None:
    target = tmp_path / "target"
    atomic_write(target, base64.b64encode(bytes(range(32))), 0o600)
    (store.state_dir / "keys/gen-1.key").symlink_to(target)
    with pytest.raises(HostError) as caught:
        store.load_key(1)
    assert caught.value.errno == errno.ELOOP
    with pytest.raises(HostError):
        store.erase_key(1)
    assert target.read_bytes() == base64.b64encode(bytes(range(32)))


def test_a_fifo_in_place_of_a_key_is_refused_and_does_not_hang(store: KeyStore) -> None:
    os.mkfifo(store.state_dir / "keys/gen-1.key", 0o600)
    with pytest.raises(HostError, match="no ordinary file"):
        store.load_key(1)


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 44, b"A" * 43 + b"="])
def test_a_damaged_key_is_an_error_that_does_not_show_it(store: KeyStore, content: bytes) -> None:
    path = store.state_dir / "keys/gen-1.key"
    atomic_write(path, content, 0o600)
    with pytest.raises(HostError, match="damaged") as caught:
        store.load_key(1)
    assert caught.value.__suppress_context__
    assert not content or content.decode("latin1") not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("node.json", KeyStore.owner),
        ("generations.json", KeyStore.load_generations),
        ("identity.key", KeyStore.load_identity),
        ("identity.crt", KeyStore.load_certificate),
    ],
)
@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000 + b"\xff", b'{"node": 1}\xff'])
def test_a_damaged_file_is_named(
    store: KeyStore, name: str, load: Callable[[KeyStore], object], content: bytes
) -> None:
    atomic_write(store.state_dir / name, content, 0o600)
    with pytest.raises(HostError, match=f"{name} is damaged"):
        load(store)


def test_a_store_copied_to_another_node_is_detected(store: KeyStore) -> None:
    for node, uid in (("n1", "u2"), ("n2", "u1")):
        with pytest.raises(HostError, match=r"keys of node n1 \(UID u1\).*agent cleanup"):
            KeyStore(store.state_dir).open(node, uid, "c1")


def test_another_cluster_is_reported_not_recorded(store: KeyStore) -> None:
    assert store.open("n1", "u1", "c2").cluster_uid == "c1"


def test_a_number_never_gets_a_second_key(store: KeyStore) -> None:
    key = PrivateKey.generate()
    store.save_key(1, key)
    with pytest.raises(HostError, match="never given twice"):
        store.save_key(1, PrivateKey.generate())
    loaded = store.load_key(1)
    assert loaded is not None
    assert loaded.public_key == key.public_key


def test_an_erased_key_is_overwritten_and_gone(store: KeyStore, tmp_path: Path) -> None:
    store.save_key(1, PrivateKey.generate())
    path = store.state_dir / "keys/gen-1.key"
    os.link(path, tmp_path / "second-name")  # what the blocks hold afterwards
    store.erase_key(1)
    store.erase_key(1)
    assert store.key_numbers() == ()
    assert set((tmp_path / "second-name").read_bytes()) == {0}


def test_leftovers_of_a_crash_are_removed_at_the_next_start(store: KeyStore) -> None:
    leftover = store.state_dir / "keys" / ".gen-1.key.0badcafe.tmp"
    leftover.write_bytes(b"half a key")
    store.open("n1", "u1", "c1")
    assert not leftover.exists()


def test_a_full_disk_leaves_the_old_file_and_no_leftover(tmp_path: Path) -> None:
    """A limit on file size stands for the full disk: the write fails half way in the same manner."""
    path = tmp_path / "file"
    atomic_write(path, b"old", 0o600)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(HostError) as caught:
            atomic_write(path, b"n" * 100_000, 0o600)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_error_with_errno(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        atomic_write(tmp_path / "none" / "file", b"x")
    assert caught.value.errno == errno.ENOENT


def test_atomic_write_says_whether_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert atomic_write(path, b"a")
    assert not atomic_write(path, b"a")
    assert atomic_write(path, b"b")
    assert atomic_write(path, b"b", 0o600), "other permissions are another file"
    assert (path.read_bytes(), mode(path)) == (b"b", 0o600)


def test_a_ca_is_stored_and_loaded(tmp_path: Path) -> None:
    authority = CertificateAuthority.create("lab", NOW, timedelta(days=10))
    assert load_authority(tmp_path / "ca") is None
    save_authority(tmp_path / "ca", authority)
    loaded = load_authority(tmp_path / "ca")
    assert loaded is not None
    assert loaded.certificate_pem() == authority.certificate_pem()
    assert mode(tmp_path / "ca" / "ca.key") == 0o600
