"""`ich view`: who gets what from its server, what is measured and drawn, and what it says to a user's mistakes."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from scipy import ndimage

from components.imaging.errors import ScanError
from components.imaging.nifti import read_volume
from pipeline.cli import main
from pipeline.config import load_config
from serving.viewer import server as server_module
from serving.viewer.mosaics import ACROSS
from serving.viewer.scene import COLOURS, WINDOWS, Scene, open_scene, slices_to_show
from serving.viewer.server import File, Server, files_of, owner_of
from tests.cases import SHAPE, Sample, cuboid
from tests.imaging.dicom import files as dicom
from tests.imaging.scans import AXIS_CODES, load, rotated, save, stored_as, to_lps

ROOT = Path(__file__).parents[2]
BLOOD = [cuboid((1, 3), (26, 38), (26, 38)), cuboid((4, 5), (40, 43), (20, 26))]
SECRET = "Doe Jane"


@dataclass(frozen=True)
class Files:
    """A scan and two masks on disk."""

    scan: Path
    masks: tuple[Path, Path]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Blood in three of five slices; the second mask has half of it."""
    scan, first, second = (tmp_path / name for name in ("head.nii.gz", "drawn.nii.gz", "found.nii.gz"))
    Sample("a", BLOOD, BLOOD).save(scan, first)
    Sample("a", BLOOD, BLOOD[:1]).save(tmp_path / "again.nii.gz", second)
    (tmp_path / "again.nii.gz").unlink()
    return Files(scan, (first, second))


@pytest.fixture
def scene(files: Files) -> Scene:
    return open_scene(files.scan, files.masks)


@contextmanager
def running(content: dict[str, File]) -> Iterator[Server]:
    with Server(content) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def ask(server: Server, path: str, method: str = "GET", host: str | None = None) -> http.client.HTTPResponse:
    """The answer, read; its content is `.content`."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    if host != "":
        connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    answer.content = answer.read()  # type: ignore[attr-defined]
    connection.close()
    return answer


def ich(*arguments: object) -> Result:
    result = CliRunner().invoke(main, ["view", *map(str, arguments)], prog_name="ich")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


# --- the server


def test_it_serves_the_files_of_the_page_and_no_other(scene: Scene) -> None:
    content = files_of(scene)
    assert set(content) == {
        "", "view.css", "view.js", "niivue.umd.js", "licences.txt", "scene.json",
        "scan.nii", "mask-0.nii", "mask-1.nii",
    }  # fmt: skip
    with running(content) as server:
        assert server.server_address[0] == "127.0.0.1"
        assert server.url == f"http://127.0.0.1:{server.server_port}/{server.token}/"
        assert len(server.token) >= 32
        for name, file in content.items():
            for method in ("GET", "HEAD"):
                answer = ask(server, f"/{server.token}/{name}", method)
                assert answer.status == 200
                assert answer.content == (file.content if method == "GET" else b"")  # type: ignore[attr-defined]
                assert int(answer.headers["Content-Length"]) == len(file.content)
                assert answer.headers["Content-Type"] == file.type


def test_two_servers_have_two_tokens() -> None:
    with Server({}) as one, Server({}) as other:
        assert one.token != other.token


@pytest.mark.parametrize(
    "path",
    [
        "/", "", "//", "/favicon.ico", "/scan.nii", "/TOKEN", "/token/", "/TOKENx/", "/TOKE/scan.nii", "*",
        "/x/TOKEN/scan.nii",
        "/TOKEN//scan.nii", "/TOKEN/index.html", "/TOKEN/static/", "/TOKEN/.", "/TOKEN/..",
        "/TOKEN/../TOKEN/scan.nii", "/TOKEN/../../../../etc/passwd", "/TOKEN/%2e%2e/%2e%2e/etc/passwd",
        "/TOKEN/..%2fscene.py", "/TOKEN//etc/passwd", "/TOKEN/niivue.umd.js.gz", "/TOKEN/mask-2.nii",
        "/TOKEN/SCAN.nii", "/TOKEN/scan.nii/", "/TOKEN/\\..\\view.js", "http://127.0.0.1/TOKEN/scan.nii", "//[/TOKEN/",
        "/%54OKEN/scan.nii",
    ],
)  # fmt: skip
def test_everything_else_is_not_there(scene: Scene, path: str) -> None:
    with running(files_of(scene)) as server:
        answer = ask(server, path.replace("TOKEN", server.token))
        assert (answer.status, answer.content) == (404, b"404 Not Found\n")  # type: ignore[attr-defined]


def test_a_query_is_of_no_account(scene: Scene) -> None:
    with running(files_of(scene)) as server:
        assert ask(server, f"/{server.token}/scene.json?x=/../y").status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("localhost:9", 200), ("127.0.0.1", 200), ("evil.example", 403), ("evil.example:80", 403),
     ("127.0.0.1.evil.example", 403), ("", 403), ("//[", 403)],
)  # fmt: skip
def test_a_foreign_name_for_this_machine_is_refused(scene: Scene, host: str, status: int) -> None:
    """A page elsewhere may have its own name resolved to 127.0.0.1, and would then count as the same origin."""
    with running(files_of(scene)) as server:
        assert ask(server, f"/{server.token}/scan.nii", host=host).status == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed(scene: Scene, method: str) -> None:
    with running(files_of(scene)) as server:
        assert ask(server, f"/{server.token}/", method).status == 501


def test_headers_let_the_page_load_from_its_own_server_only(scene: Scene) -> None:
    with running(files_of(scene)) as server:
        for path in (f"/{server.token}/", "/other"):
            headers = ask(server, path).headers
            rules = dict(rule.split(" ", 1) for rule in headers["Content-Security-Policy"].split("; "))
            assert rules["default-src"] == "'none'" and rules["frame-ancestors"] == "'none'"
            assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Cache-Control"] == "no-store"
            assert headers["Referrer-Policy"] == "no-referrer"
            assert headers["Server"].split() == ["ich"]
            assert "Access-Control-Allow-Origin" not in headers


def test_the_page_names_nothing_outside(scene: Scene) -> None:
    content = files_of(scene)
    for name in ("", "view.css", "view.js", "scene.json"):
        assert not re.search(rb"https?://|//[a-z]+\.", re.sub(rb"^ *//.*", b"", content[name].content, flags=re.M)), (
            name
        )


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="no /proc/net")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_the_kernel_says_whose_connection_it_is(family: socket.AddressFamily) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket(family) as client:
        try:
            client.connect(
                ("127.0.0.1" if family == socket.AF_INET else "::ffff:127.0.0.1", listening.getsockname()[1])
            )
        except OSError:
            pytest.skip("no IPv6 here")
        with listening.accept()[0] as accepted:
            assert owner_of(accepted.getpeername(), accepted.getsockname()) == os.getuid()


def test_an_owner_is_read_from_either_table_and_of_the_right_connection(tmp_path: Path) -> None:
    ours, theirs = ("127.0.0.1", 0x1F90), ("127.0.0.1", 0xA001)
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    address = f"{int.from_bytes(bytes([127, 0, 0, 1]), sys.byteorder):08X}"
    line = "   0: {0}:{1} {0}:{2} 01 00000000:00000000 00:00000000 00000000  {3}        0 1 1 0\n".format
    (tmp_path / "tcp").write_text(head + line(address, "1F90", "A001", 7) + line(address, "A002", "1F90", 8))
    assert owner_of(theirs, ours, tmp_path) is None
    mapped = "0000000000000000FFFF0000" + address
    (tmp_path / "tcp6").write_text(head + line(mapped, "A001", "1F90", 1234))
    assert owner_of(theirs, ours, tmp_path) == 1234


@pytest.mark.parametrize(("owner", "served"), [(os.getuid(), True), (0, True), (None, True), (os.getuid() + 1, False)])
def test_another_user_gets_no_answer_even_with_the_token(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, owner: int | None, served: bool
) -> None:
    monkeypatch.setattr(server_module, "owner_of", lambda client, server: owner)
    with running(files_of(scene)) as server:
        if served:
            assert ask(server, f"/{server.token}/scan.nii").status == 200
        else:
            with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
                ask(server, f"/{server.token}/scan.nii")


# --- what it serves


def test_volumes_are_the_files_voxels_without_their_text(files: Files, tmp_path: Path) -> None:
    volume = read_volume(files.scan)
    header = volume.header.copy()
    header["descrip"], header["db_name"] = SECRET.encode(), SECRET.encode()
    image = nib.Nifti1Image(volume.data, volume.affine, header)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", SECRET.encode()))
    image.header.set_slope_inter(1, 0)
    named = tmp_path / SECRET / "head.nii.gz"
    named.parent.mkdir()
    nib.save(image, named)
    assert SECRET.encode() in gzip.decompress(named.read_bytes())
    scene = open_scene(named, files.masks)
    content = files_of(scene)
    assert not [name for name, file in content.items() if SECRET.encode() in file.content]
    assert json.loads(content["scene.json"].content)["name"] == "head.nii.gz"
    for name, path in [("scan.nii", files.scan), ("mask-0.nii", files.masks[0]), ("mask-1.nii", files.masks[1])]:
        found, wanted = nib.Nifti1Image.from_bytes(content[name].content), load(path)
        np.testing.assert_array_equal(found.get_fdata(), wanted.get_fdata())
        np.testing.assert_allclose(found.affine, wanted.affine, atol=1e-4)


def test_fractions_of_hu_stay(tmp_path: Path) -> None:
    sample = Sample("a")
    path = save(tmp_path / "float.nii.gz", to_lps(sample.hu).astype(np.float32) + 0.25, sample.affine)
    found = nib.Nifti1Image.from_bytes(files_of(open_scene(path))["scan.nii"].content)
    np.testing.assert_array_equal(found.get_fdata(), to_lps(sample.hu) + 0.25)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "SAL"])
@pytest.mark.parametrize("turned", [False, True])
def test_measured_volumes_equal_a_count_of_another_kind(tmp_path: Path, codes: str, turned: bool) -> None:
    sample = Sample("a", BLOOD, BLOOD)
    affine = rotated(sample.affine, (12, -7, 20)) if turned else sample.affine
    for name, data in (("scan", to_lps(sample.hu).astype(np.int16)), ("mask", to_lps(sample.mask).astype(np.uint8))):
        save(tmp_path / f"{name}.nii.gz", *stored_as(data, affine, codes))
    told = json.loads(files_of(open_scene(tmp_path / "scan.nii.gz", [tmp_path / "mask.nii.gz"]))["scene.json"].content)
    image = load(tmp_path / "mask.nii.gz")
    voxels, voxel_ml = np.asarray(image.dataobj), np.prod(image.header.get_zooms()) / 1000
    labels, count = ndimage.label(voxels, np.ones((3, 3, 3)))
    wanted = sorted((float((labels == label).sum() * voxel_ml) for label in range(1, count + 1)), reverse=True)
    (mask,) = told["masks"]
    assert count == 2
    assert mask["volume_ml"] == pytest.approx(voxels.sum() * voxel_ml, abs=0.001)
    assert [one["volume_ml"] for one in mask["components"]] == pytest.approx(wanted, abs=0.001)
    assert mask["summary"] == f"{voxels.sum() * voxel_ml:.1f} ml in 2 components"
    assert told["slice_axis"] == codes.index("S")
    for one in mask["components"]:
        i, j, k = np.rint(np.linalg.inv(image.affine) @ [*one["place_mm"], 1])[:3].astype(int)
        size = (labels == labels[i, j, k]).sum() * voxel_ml
        assert voxels[i, j, k] and size == pytest.approx(one["volume_ml"], abs=0.001)


def test_the_place_of_a_crescent_is_in_it(tmp_path: Path) -> None:
    """Its centroid lies in another lesion."""
    crescent = [
        cuboid((1, 3), (10, 54), (10, 13)),
        cuboid((1, 3), (10, 13), (10, 54)),
        cuboid((1, 3), (51, 54), (10, 54)),
    ]
    sample = Sample("a", [], [*crescent, cuboid((1, 3), (28, 36), (18, 32))])
    sample.save(tmp_path / "scan.nii.gz", tmp_path / "mask.nii.gz")
    (mask,) = open_scene(tmp_path / "scan.nii.gz", [tmp_path / "mask.nii.gz"]).masks
    labels, _ = ndimage.label(mask.voxels, np.ones((3, 3, 3)))

    def label_at(place: list[float]) -> int:
        index = np.rint(np.linalg.inv(sample.affine) @ [*place, 1])[:3].astype(int)
        return int(labels[tuple(index)])

    large = mask.measured["components"][0]
    assert label_at(large["centroid_mm"]) == label_at(mask.places[1])
    assert label_at(mask.places[0]) not in (0, label_at(mask.places[1]))


@pytest.mark.parametrize("codes", AXIS_CODES[::11])
def test_a_mask_stored_along_other_axes_is_put_onto_the_scans_grid(files: Files, tmp_path: Path, codes: str) -> None:
    image = load(files.masks[0])
    other = save(tmp_path / "other.nii.gz", *stored_as(np.asarray(image.dataobj), image.affine, codes))
    (mask,) = open_scene(files.scan, [other]).masks
    np.testing.assert_array_equal(mask.voxels, np.asarray(image.dataobj) > 0)


def test_a_dicom_study_is_shown_as_it_is_converted_and_names_nobody(tmp_path: Path) -> None:
    hu = Sample("a", BLOOD).hu
    folder = tmp_path / "study"
    places = dicom.positions(SHAPE[0])
    dicom.write_series(folder, (hu + 1024).astype(np.int16), places, PixelSpacing=[3.0, 3.0])
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    for given in (folder, tmp_path / "study.zip"):
        scene = open_scene(given)
        np.testing.assert_array_equal(scene.orientation.to_canonical(scene.volume.data), hu)
        content = files_of(scene)
        assert json.loads(content["scene.json"].content)["name"] == given.name
        assert not [name for name, file in content.items() if dicom.SECRET.encode() in file.content]
        found = nib.Nifti1Image.from_bytes(content["scan.nii"].content)
        np.testing.assert_allclose(found.affine, scene.volume.affine, atol=1e-4)


def test_windows_are_those_that_the_network_sees() -> None:
    configured = {window.name: (window.level, window.width) for window in load_config("demo").windows}
    shown = {window.name: (window.level, window.width) for window in WINDOWS}
    assert shown["brain"] == configured["brain"] and shown["subdural"] == configured["subdural"]
    assert shown["bone"] == (500, 2000)


def test_the_library_is_the_published_file() -> None:
    wanted = re.search("^SHA256=([0-9a-f]{64})$", (ROOT / ".ci/viewer").read_text(), re.M)
    packed = (ROOT / "serving/viewer/static/niivue.umd.js.gz").read_bytes()
    assert wanted and hashlib.sha256(gzip.decompress(packed)).hexdigest() == wanted[1]


# --- pictures


def outlined(picture: np.ndarray, position: int) -> bool:
    return bool((picture == COLOURS[position]).all(axis=-1).any())


def test_pictures_show_slices_with_blood_and_their_neighbours_in_each_window(files: Files, tmp_path: Path) -> None:
    result = ich(files.scan, *files.masks, "--png", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "drawn.nii.gz: 13.8 ml in 2 components" in result.output
    assert slices_to_show(open_scene(files.scan, files.masks), 60).tolist() == [0, 1, 2, 3, 4]
    assert slices_to_show(open_scene(files.scan, files.masks[1:]), 60).tolist() == [0, 1, 2, 3]
    assert slices_to_show(open_scene(files.scan, files.masks), 3).tolist() == [0, 2, 4]
    pictures = {path.name: np.asarray(Image.open(path)) for path in (tmp_path / "out").iterdir()}
    assert set(pictures) == {"head_brain.png", "head_subdural.png", "head_bone.png"}
    for picture in pictures.values():
        assert picture.shape == (3 * 20 + 256, 5 * 256, 3)
        tiles = picture[60:].reshape(256, 5, 256, 3).swapaxes(0, 1)
        assert [outlined(tile, 0) for tile in tiles] == [False, False, False, False, True]  # under the second mask's
        assert [outlined(tile, 1) for tile in tiles] == [False, True, True, False, False]
    middles = [pictures[f"head_{name}.png"][60 + 60, 256 + 128, 0] for name in ("brain", "subdural", "bone")]
    assert middles == [int((35 - low) / width * 255) for low, width in ((0, 80), (-15, 130), (-500, 2000))]


def test_without_blood_the_whole_head_is_shown(tmp_path: Path) -> None:
    Sample("a").save(tmp_path / "scan.nii.gz", tmp_path / "mask.nii.gz")
    for masks in ([], [tmp_path / "mask.nii.gz"]):
        result = ich(tmp_path / "scan.nii.gz", *masks, "--png", tmp_path / "out")
        assert result.exit_code == 0
        (path,) = (tmp_path / "out").glob("*_bone.png")
        picture = np.asarray(Image.open(path))
        assert picture.shape == ((1 + len(masks)) * 20 + 256, min(ACROSS, SHAPE[0]) * 256, 3)
        assert not any(outlined(picture[20 * (1 + len(masks)) :], position) for position in range(len(COLOURS)))


# --- mistakes


def test_a_mask_of_another_grid_is_refused(files: Files, tmp_path: Path) -> None:
    image = load(files.masks[0])
    small = save(tmp_path / "small.nii.gz", np.asarray(image.dataobj)[:-1], image.affine)
    moved = save(tmp_path / "moved.nii.gz", np.asarray(image.dataobj), image.affine + 9 * np.eye(4, k=3))
    for path, words in ((small, "shape (63, 64, 5), wanted (64, 64, 5)"), (moved, "lies up to 9.00 mm away")):
        result = ich(files.scan, path)
        assert result.exit_code == 2
        assert result.output.startswith(f"error: {path}: ") and words in result.output
        assert str(files.scan) in result.output and "Traceback" not in result.output


def test_a_scan_given_as_its_own_mask(files: Files) -> None:
    with pytest.raises(ScanError, match="equals"):
        open_scene(files.scan, [files.scan])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.nii.gz"], "nowhere.nii.gz: no such scan"),
        (["head.nii.gz", "nowhere.nii.gz"], "nowhere.nii.gz: no such file"),
        (["."], ".: holds 3 scans (drawn.nii.gz, found.nii.gz, head.nii.gz); name one"),
        (["broken.nii.gz"], "broken.nii.gz: "),
        (["head.nii.gz", "--png", "drawn.nii.gz"], "drawn.nii.gz: cannot write there"),
        (["head.nii.gz", "--port", "99999"], "--port"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    files: Files, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(files.scan.parent)
    if "broken.nii.gz" in arguments:
        Path("broken.nii.gz").write_bytes(files.scan.read_bytes()[:900])
    result = ich(*arguments)
    assert result.exit_code == 2 and words in result.output


def test_a_port_that_is_taken(files: Files) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = ich(files.scan, "--no-browser", "--port", port)
    assert result.exit_code == 2 and f"error: port {port}: cannot listen there" in result.output


# --- the command


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_a_signal_and_ends_with_0(files: Files, number: signal.Signals) -> None:
    program = (
        # A job in the background is started with SIGINT ignored; and this browser only says what it was to open.
        "import webbrowser, sys; from pipeline.cli import main\n"
        "webbrowser.open = lambda url: print('opened', url, flush=True)\n"
        "main(['view', *sys.argv[1:]])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(files.scan), str(files.masks[0])],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "DISPLAY": ":0"},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "drawn.nii.gz: 13.8 ml in 2 components\n"
        line = process.stdout.readline()
        found = re.fullmatch(r"(http://127\.0\.0\.1:(\d+)(/\S+/)) shows head\.nii\.gz; Ctrl-C ends it\n", line)
        assert found, line
        assert process.stdout.readline() == f"opened {found[1]}\n"
        connection = http.client.HTTPConnection("127.0.0.1", int(found[2]), timeout=30)
        connection.request("GET", found[3])
        assert b"<title>" in connection.getresponse().read()
        process.send_signal(number)
        rest, errors = process.communicate(timeout=60)
        assert (process.returncode, rest) == (0, "")
        assert "Traceback" not in errors
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("arguments", "screen"), [(["--no-browser"], ":0"), ([], "")])
def test_no_browser_where_none_is_wanted_or_could_be_seen(
    files: Files, monkeypatch: pytest.MonkeyPatch, arguments: list[str], screen: str
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(server_module.webbrowser, "open", opened.append)
    monkeypatch.setattr(server_module.Server, "serve_forever", lambda self: None)
    monkeypatch.setattr(server_module.signal, "signal", lambda number, handler: None)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    if screen:
        monkeypatch.setenv("DISPLAY", screen)
    monkeypatch.setattr(server_module.sys, "platform", "linux")
    result = ich(files.scan, *arguments)
    assert result.exit_code == 0 and "http://127.0.0.1:" in result.output
    assert opened == []
