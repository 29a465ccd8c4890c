"""Recognisers from elsewhere: tiny ones with random weights, and what is made of their words."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sounds import hum, wav

from limbeck.data.sources import speech
from limbeck.errors import InputError
from limbeck.teachers.transcriber import Transcriber, judged, normalised, write_transcripts

transformers = pytest.importorskip("transformers")
pytest.importorskip("soundfile")
RECORDINGS = [wav(hum(digit, 0, 0)) for digit in range(3)]


def write_wav2vec2(folder: Path) -> Path:
    """Write a tiny CTC model with a tokenizer of five letters."""
    folder.mkdir(parents=True)
    symbols = ("<pad>", "<s>", "</s>", "<unk>", "|", *"ehlow")
    (folder / "vocab.json").write_text(json.dumps({s: n for n, s in enumerate(symbols)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    first = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    transformers.Wav2Vec2Processor(first, tokenizer).save_pretrained(folder)
    config = transformers.Wav2Vec2Config(
        vocab_size=len(symbols), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, conv_dim=(8, 8), conv_kernel=(10, 4), conv_stride=(80, 4),
        num_feat_extract_layers=2, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer", pad_token_id=0,
    )  # fmt: skip
    transformers.Wav2Vec2ForCTC(config).save_pretrained(folder)
    return folder


def write_whisper(folder: Path) -> Path:
    """Write a tiny Whisper with a tokenizer of bytes."""
    alphabet = sorted(pytest.importorskip("tokenizers").pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]
    vocab = {symbol: number for number, symbol in enumerate([*alphabet, *special])}
    tokenizer = transformers.WhisperTokenizer(
        vocab=vocab, merges=[], additional_special_tokens=special
    )
    first = transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=2)
    transformers.WhisperProcessor(first, tokenizer).save_pretrained(folder)
    config = transformers.WhisperConfig(
        vocab_size=len(vocab), num_mel_bins=8, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, max_source_positions=100, max_target_positions=32, pad_token_id=256,
        bos_token_id=256, eos_token_id=256, decoder_start_token_id=257, suppress_tokens=None,
        begin_suppress_tokens=None,
    )  # fmt: skip
    transformers.WhisperForConditionalGeneration(config).save_pretrained(folder)
    return folder


def test_wav2vec2_is_read_and_hears_each_by_itself(tmp_path: Path) -> None:
    """Without it, transcripts could be of other recordings, or of padding."""
    heard = Transcriber.load(write_wav2vec2(tmp_path / "wav2vec2"))
    texts = heard(RECORDINGS, batch_size=2)
    model, processor = heard.model, heard.processor
    for text, recording in zip(texts, RECORDINGS, strict=True):
        inputs = processor(heard._wave(recording), sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            path = model(**inputs).logits.argmax(-1)
        assert text == processor.batch_decode(path, skip_special_tokens=True)[0].strip()


def test_whisper_is_read_and_generates(tmp_path: Path) -> None:
    """Without it, models that write token after token would be read as if they were CTC."""
    heard = Transcriber.load(write_whisper(tmp_path / "whisper"), max_length=6)
    texts = heard(RECORDINGS, batch_size=2)
    assert len(texts) == 3
    inputs = heard.processor([heard._wave(RECORDINGS[2])], sampling_rate=16000, return_tensors="pt")
    tokens = heard.model.generate(**inputs, max_length=6)
    assert tokens.shape[1] <= 6
    said = heard.processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()
    assert texts[2] == said


def test_what_is_no_recogniser_is_refused(tmp_path: Path) -> None:
    """Without it, the Hub would be asked, or a traceback from elsewhere be shown."""
    with pytest.raises(InputError, match=r"no config\.json"):
        Transcriber.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="no speech recogniser could be read"):
        Transcriber.load(tmp_path)


def test_errors_are_those_of_words() -> None:
    """Without it, marks and capitals would count as errors, or nonsense be learnt."""
    texts = ["One, TWO three!", "one two four", "  ", "anything"]
    found = judged(texts, ["one two three", "one two three", "one", None], most=0.3)
    assert [each.error for each in found] == [0.0, pytest.approx(1 / 3), 1.0, None]
    assert [each.kept for each in found] == [True, False, False, True]
    assert found[0].text == "one two three"
    assert normalised("“Don’t” — l’été, 3-4_5") == "don't l'été 3 4 5"
    with pytest.raises(InputError, match="1 references for 2"):
        judged(["a", "b"], ["a"])


def test_transcripts_become_data(tmp_path: Path) -> None:
    """Without it, what a teacher heard could not be learnt from."""

    class Parrot(Transcriber):  # type: ignore[misc]
        def __init__(self) -> None: ...

        def __call__(self, recordings: Any, batch_size: int = 8) -> list[str]:
            return [path.stem for path in recordings]

    (tmp_path / "train").mkdir()
    with (tmp_path / "metadata.csv").open("w", newline="") as opened:
        written = csv.writer(opened)
        written.writerow(["file_name", "said", "speaker"])
        for number, (name, said) in enumerate([("one", "one"), ("two", "ten"), ("six", "")] * 2):
            (tmp_path / "train" / f"{name}.wav").write_bytes(wav(hum(0, number, 0)))
            written.writerow([f"train/{name}.wav", said, f"p{number}"])
    heard = write_transcripts(tmp_path, Parrot(), references="said")
    assert [each.kept for each in heard] == [True, False, True] * 2
    data = speech(tmp_path / "transcripts", text="text", validation=0.25, test=0.25)
    assert [len(each) for each in (data.train, data.validation, data.test)] == [2, 1, 1]
    assert set(data.labels[1:]) <= set("onesix")
    with pytest.raises(InputError, match="has no column words"):
        write_transcripts(tmp_path, Parrot(), references="words")
