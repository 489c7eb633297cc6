from pathlib import Path

import pytest

from video_dit.pretrained import Source


def test_names_of_the_hub_may_go_on_with_a_folder() -> None:
    assert Source.parse("gpt2") == ("gpt2", "")
    assert Source.parse("google/umt5-xxl") == ("google/umt5-xxl", "")
    second = Source.parse("org/sd3/text_encoder_2")
    assert second == ("org/sd3", "text_encoder_2")
    assert second.beside("text_encoder", "tokenizer") == ("org/sd3", "tokenizer_2")
    assert Source.parse("google/umt5-xxl").beside("text_encoder", "tokenizer") == ("google/umt5-xxl", "")
    assert Source.parse("org/wan").inside("vae") == ("org/wan", "vae")


def test_a_folder_is_itself_and_its_neighbour_where_there_is_one(tmp_path: Path) -> None:
    encoder = tmp_path / "text_encoder_3"
    encoder.mkdir()
    source = Source.parse(str(encoder))
    assert source == (str(encoder), "")
    assert source.beside("text_encoder", "tokenizer") == source
    (tmp_path / "tokenizer_3").mkdir()
    assert source.beside("text_encoder", "tokenizer") == (str(tmp_path / "tokenizer_3"), "")
    assert source.inside("vae") == (f"{encoder}/vae", "")


def test_the_network_is_left_alone_where_it_is_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for offline in (True, False):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        assert Source.parse("org/wan").options["local_files_only"] is offline
        assert Source.parse(str(tmp_path)).options["local_files_only"] is True
