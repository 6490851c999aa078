"""WordPiece: from text to words, from words to pieces, and the training of a vocabulary of pieces."""

from __future__ import annotations

import heapq
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from minissl.errors import InputError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_WORD_CHARS = 100  # a longer word is one [UNK], as in BERT

# Character classes, as ranges of hexadecimal code points. They are written out because Python's own tables change with
# its version, and Hugging Face's are those of Unicode 8: frozen here, the same text gives the same ids everywhere.
_SPACES = "9-A D 20 A0 1680 2000-200A 2028-2029 202F 205F 3000"
# Categories Cc, Cf, Co and Cs, and U+FFFD.
_REMOVED = (
    "0-8 B-C E-1F 7F-9F AD 600-605 61C 6DD 70F 180E 200B-200F 202A-202E 2060-2064 2066-206F D800-F8FF FEFF FFF9-FFFB "
    "FFFD 110BD 1BCA0-1BCA3 1D173-1D17A E0001 E0020-E007F F0000-FFFFD 100000-10FFFD"
)
# As Hugging Face has it: one block starts at 2B920, where BERT's own code has 2B820.
_CHINESE = "3400-4DBF 4E00-9FFF F900-FAFF 20000-2A6DF 2A700-2B81F 2B920-2CEAF 2F800-2FA1F"
# Every ASCII symbol ("$", "+" and "~" too) and category P.
_PUNCTUATION = (
    "21-2F 3A-40 5B-60 7B-7E A1 A7 AB B6-B7 BB BF 37E 387 55A-55F 589-58A 5BE 5C0 5C3 5C6 5F3-5F4 609-60A 60C-60D 61B "
    "61E-61F 66A-66D 6D4 700-70D 7F7-7F9 830-83E 85E 964-965 970 AF0 DF4 E4F E5A-E5B F04-F12 F14 F3A-F3D F85 FD0-FD4 "
    "FD9-FDA 104A-104F 10FB 1360-1368 1400 166D-166E 169B-169C 16EB-16ED 1735-1736 17D4-17D6 17D8-17DA 1800-180A "
    "1944-1945 1A1E-1A1F 1AA0-1AA6 1AA8-1AAD 1B5A-1B60 1BFC-1BFF 1C3B-1C3F 1C7E-1C7F 1CC0-1CC7 1CD3 2010-2027 "
    "2030-2043 2045-2051 2053-205E 207D-207E 208D-208E 2308-230B 2329-232A 2768-2775 27C5-27C6 27E6-27EF 2983-2998 "
    "29D8-29DB 29FC-29FD 2CF9-2CFC 2CFE-2CFF 2D70 2E00-2E2E 2E30-2E42 3001-3003 3008-3011 3014-301F 3030 303D 30A0 "
    "30FB A4FE-A4FF A60D-A60F A673 A67E A6F2-A6F7 A874-A877 A8CE-A8CF A8F8-A8FA A8FC A92E-A92F A95F A9C1-A9CD "
    "A9DE-A9DF AA5C-AA5F AADE-AADF AAF0-AAF1 ABEB FD3E-FD3F FE10-FE19 FE30-FE52 FE54-FE61 FE63 FE68 FE6A-FE6B "
    "FF01-FF03 FF05-FF0A FF0C-FF0F FF1A-FF1B FF1F-FF20 FF3B-FF3D FF3F FF5B FF5D FF5F-FF65 10100-10102 1039F 103D0 "
    "1056F 10857 1091F 1093F 10A50-10A58 10A7F 10AF0-10AF6 10B39-10B3F 10B99-10B9C 11047-1104D 110BB-110BC "
    "110BE-110C1 11140-11143 11174-11175 111C5-111C9 111CD 111DB 111DD-111DF 11238-1123D 112A9 114C6 115C1-115D7 "
    "11641-11643 1173C-1173E 12470-12474 16A6E-16A6F 16AF5 16B37-16B3B 16B44 1BC9F 1DA87-1DA8B"
)
# Category Mn: accents, once a letter is decomposed.
_MARKS = (
    "300-36F 483-487 591-5BD 5BF 5C1-5C2 5C4-5C5 5C7 610-61A 64B-65F 670 6D6-6DC 6DF-6E4 6E7-6E8 6EA-6ED 711 730-74A "
    "7A6-7B0 7EB-7F3 816-819 81B-823 825-827 829-82D 859-85B 8E3-902 93A 93C 941-948 94D 951-957 962-963 981 9BC "
    "9C1-9C4 9CD 9E2-9E3 A01-A02 A3C A41-A42 A47-A48 A4B-A4D A51 A70-A71 A75 A81-A82 ABC AC1-AC5 AC7-AC8 ACD AE2-AE3 "
    "B01 B3C B3F B41-B44 B4D B56 B62-B63 B82 BC0 BCD C00 C3E-C40 C46-C48 C4A-C4D C55-C56 C62-C63 C81 CBC CBF CC6 "
    "CCC-CCD CE2-CE3 D01 D41-D44 D4D D62-D63 DCA DD2-DD4 DD6 E31 E34-E3A E47-E4E EB1 EB4-EB9 EBB-EBC EC8-ECD F18-F19 "
    "F35 F37 F39 F71-F7E F80-F84 F86-F87 F8D-F97 F99-FBC FC6 102D-1030 1032-1037 1039-103A 103D-103E 1058-1059 "
    "105E-1060 1071-1074 1082 1085-1086 108D 109D 135D-135F 1712-1714 1732-1734 1752-1753 1772-1773 17B4-17B5 "
    "17B7-17BD 17C6 17C9-17D3 17DD 180B-180D 18A9 1920-1922 1927-1928 1932 1939-193B 1A17-1A18 1A1B 1A56 1A58-1A5E "
    "1A60 1A62 1A65-1A6C 1A73-1A7C 1A7F 1AB0-1ABD 1B00-1B03 1B34 1B36-1B3A 1B3C 1B42 1B6B-1B73 1B80-1B81 1BA2-1BA5 "
    "1BA8-1BA9 1BAB-1BAD 1BE6 1BE8-1BE9 1BED 1BEF-1BF1 1C2C-1C33 1C36-1C37 1CD0-1CD2 1CD4-1CE0 1CE2-1CE8 1CED 1CF4 "
    "1CF8-1CF9 1DC0-1DF5 1DFC-1DFF 20D0-20DC 20E1 20E5-20F0 2CEF-2CF1 2D7F 2DE0-2DFF 302A-302D 3099-309A A66F "
    "A674-A67D A69E-A69F A6F0-A6F1 A802 A806 A80B A825-A826 A8C4 A8E0-A8F1 A926-A92D A947-A951 A980-A982 A9B3 "
    "A9B6-A9B9 A9BC A9E5 AA29-AA2E AA31-AA32 AA35-AA36 AA43 AA4C AA7C AAB0 AAB2-AAB4 AAB7-AAB8 AABE-AABF AAC1 "
    "AAEC-AAED AAF6 ABE5 ABE8 ABED FB1E FE00-FE0F FE20-FE2F 101FD 102E0 10376-1037A 10A01-10A03 10A05-10A06 "
    "10A0C-10A0F 10A38-10A3A 10A3F 10AE5-10AE6 11001 11038-11046 1107F-11081 110B3-110B6 110B9-110BA 11100-11102 "
    "11127-1112B 1112D-11134 11173 11180-11181 111B6-111BE 111CA-111CC 1122F-11231 11234 11236-11237 112DF "
    "112E3-112EA 11300-11301 1133C 11340 11366-1136C 11370-11374 114B3-114B8 114BA 114BF-114C0 114C2-114C3 "
    "115B2-115B5 115BC-115BD 115BF-115C0 115DC-115DD 11633-1163A 1163D 1163F-11640 116AB 116AD 116B0-116B5 116B7 "
    "1171D-1171F 11722-11725 11727-1172B 16AF0-16AF4 16B30-16B36 16F8F-16F92 1BC9D-1BC9E 1D167-1D169 1D17B-1D182 "
    "1D185-1D18B 1D1AA-1D1AD 1D242-1D244 1DA00-1DA36 1DA3B-1DA6C 1DA75 1DA84 1DA9B-1DA9F 1DAA1-1DAAF 1E8D0-1E8D6 "
    "E0100-E01EF"
)
# Characters that some Python decomposes or reorders and Hugging Face's older tables leave as they are.
_NEVER_DECOMPOSED = (
    "5C8-5C9 7FD 897-89F 8CA-8D3 9FE C3C D3B-D3C EBA 1715 1ABF-1AF0 1DF6-1DFA A82C 105C9 105E4 10D24-10D27 "
    "10D69-10D6D 10EAB-10EAC 10ECB-10ECF 10EF0-10EFB 10EFD-10EFF 10F46-10F50 10F82-10F85 11070 1133B 11383 11385 "
    "1138E 11391 113C5 113C7-113C8 113CE-113D0 1145E 11839-1183A 11938 1193D-1193E 11943 119E0 11A34 11A47 11A99 "
    "11D42 11D44-11D45 11D97 11F41-11F42 16121-16128 1612F 16D68-16D6A 16FF0-16FF1 1D127-1D128 1D250-1D252 "
    "1D25B-1D25C 1D25F 1D280-1D281 1E08F 1E130-1E136 1E2AE 1E2EC-1E2EF 1E4EC-1E4EF 1E5EE-1E5EF 1E6E3 1E6E6 "
    "1E6EE-1E6EF 1E6F5"
)
# str.lower works character by character but for the capital sigma, whose form depends on its neighbours; the others are
# capitals from Unicode 15 to 17, which not every Python knows.
_LOWER = {0x3A3: 0x3C3, 0x1C89: 0x1C8A, 0xA7CB: 0x264, 0xA7CC: 0xA7CD, 0xA7CE: 0xA7CF, 0xA7D2: 0xA7D3, 0xA7D4: 0xA7D5}
_LOWER |= {0xA7DA: 0xA7DB, 0xA7DC: 0x19B}
_LOWER |= {capital: capital + 0x20 for capital in range(0x10D50, 0x10D66)}
_LOWER |= {capital: capital + 0x1B for capital in range(0x16EA0, 0x16EB9)}


def _regex(template: str, ranges: str) -> re.Pattern[str]:
    """Compile `template` with `CLASS` replaced by the inside of a character class for `ranges`."""
    inside = re.sub("[0-9A-F]+", lambda point: f"\\U{int(point[0], 16):08x}", ranges).replace(" ", "")
    return re.compile(template.replace("CLASS", inside))


_CHUNK_REGEX = _regex("[^CLASS]+", _SPACES)
_SPACE_REGEX = _regex("[CLASS]", _SPACES)
_REMOVED_REGEX = _regex("[CLASS]+", _REMOVED)
_CHINESE_REGEX = _regex("[CLASS]", _CHINESE)
_DECOMPOSED_REGEX = _regex("[^CLASS]+", _NEVER_DECOMPOSED)
_MARKS_REGEX = _regex("[CLASS]+", _MARKS)
_WORD_REGEX = _regex("[CLASS]|[^CLASS ]+", _PUNCTUATION)


def split_chunks(text: str) -> list[str]:
    """Cut at whitespace. No later step looks across it, so that what a chunk becomes may be remembered."""
    return _CHUNK_REGEX.findall(text)


def find_chunks(text: str) -> list[tuple[int, str]]:
    """Return the chunks of `split_chunks`, each with the place where it begins."""
    return [(match.start(), match[0]) for match in _CHUNK_REGEX.finditer(text)]


def split_words(
    chunk: str, lowercase: bool = True, strip_accents: bool | None = None, tokenize_chinese_chars: bool = True
) -> list[str]:
    """Return the words of a chunk: normalized, every punctuation mark and Chinese character its own word.

    `strip_accents=None` follows `lowercase`. Source: Devlin et al. 2019, `tokenization.py`, as Hugging Face's
    `BertNormalizer` and `BertPreTokenizer` do it.
    """
    return _WORD_REGEX.findall(normalize(chunk, lowercase, strip_accents, tokenize_chinese_chars))


def normalize(
    text: str, lowercase: bool = True, strip_accents: bool | None = None, tokenize_chinese_chars: bool = True
) -> str:
    """Clean and lower-case a text, with a space in place of whitespace and round every Chinese character."""
    text = _SPACE_REGEX.sub(" ", _REMOVED_REGEX.sub("", text))
    only_ascii = text.isascii()  # as most texts are: the next steps have nothing to do there
    if tokenize_chinese_chars and not only_ascii:
        text = _CHINESE_REGEX.sub(r" \g<0> ", text)
    if (lowercase if strip_accents is None else strip_accents) and not only_ascii:
        text = _DECOMPOSED_REGEX.sub(lambda span: unicodedata.normalize("NFD", span[0]), text)
        text = _MARKS_REGEX.sub("", text)
    if lowercase:
        text = text.translate(_LOWER).lower()
    return text


def align(
    text: str, lowercase: bool = True, strip_accents: bool | None = None, tokenize_chinese_chars: bool = True
) -> tuple[str, Sequence[int]]:
    """Return the text of `normalize`, and for each of its characters the place in `text` that it came from."""
    if text.isascii() and not _REMOVED_REGEX.search(text):
        return normalize(text, lowercase), range(len(text))
    characters = [(character, place) for place, character in enumerate(text) if not _REMOVED_REGEX.match(character)]
    if lowercase if strip_accents is None else strip_accents:
        characters = _decompose(characters)
    normalized, places = "", []
    for character, place in characters:  # but for the order of accents, every step looks at one character alone
        part = normalize(character, lowercase, strip_accents, tokenize_chinese_chars)
        normalized += part
        places += [place] * len(part)
    return normalized, places


def align_words(
    chunk: str, lowercase: bool = True, strip_accents: bool | None = None, tokenize_chinese_chars: bool = True
) -> list[tuple[str, Sequence[int]]]:
    """Return the words of `split_words`, and for each of their characters the place in `chunk` that it came from."""
    normalized, places = align(chunk, lowercase, strip_accents, tokenize_chinese_chars)
    return [(match[0], places[match.start() : match.end()]) for match in _WORD_REGEX.finditer(normalized)]


def _decompose(characters: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Decompose each character, and put each run of marks in canonical order (Unicode 15.0, section 3.11, D108).

    As Hugging Face counts, the marks change their order and the places do not: the first part of a character takes the
    next place, its other parts the place of what now stands before them.
    """
    parts: list[tuple[str, int, bool]] = []  # character, combining class, whether it is the first part of a character
    for character, _ in characters:
        frozen = not _DECOMPOSED_REGEX.match(character)
        for index, part in enumerate(character if frozen else unicodedata.normalize("NFD", character)):
            rank = 0 if frozen else unicodedata.combining(part)
            at = len(parts)
            while rank and at and parts[at - 1][1] > rank:
                at -= 1
            parts.insert(at, (part, rank, index == 0))
    places = iter(place for _, place in characters)
    aligned: list[tuple[str, int]] = []
    for part, _, is_first in parts:
        aligned.append((part, next(places) if is_first or not aligned else aligned[-1][1]))
    return aligned


def longest_match(word: str, vocab: Mapping[str, int]) -> list[int] | None:
    """Cut a word into ids, at each point the longest piece of the vocabulary; None where no piece fits.

    Pieces that continue a word carry the prefix "##".
    """
    if len(word) > MAX_WORD_CHARS:
        return None
    ids: list[int] = []
    start = 0
    while start < len(word):
        prefix = "##" if start else ""
        for end in range(len(word), start, -1):
            index = vocab.get(prefix + word[start:end])
            if index is not None:
                break
        else:
            return None
        ids.append(index)
        start = end
    return ids


def train_wordpiece(
    texts: Iterable[str],
    vocab_size: int,
    *,
    min_frequency: int = 2,
    lowercase: bool = True,
    limit_alphabet: int = 1000,
) -> list[str]:
    """Learn a vocabulary: the special tokens, the characters, then merges of two pieces until `vocab_size` is reached.

    Each step merges the pair of neighbouring pieces that is most frequent in the words of the texts; among equals, the
    pair whose pieces stand first in the vocabulary. So the result depends on the words' counts alone: not on the order
    of the texts, the machine or Python's hashing.

    The score is the count, as in BPE (Sennrich et al. 2016, algorithm 1), although the WordPiece article (Schuster and
    Nakajima 2012) merges the pair that raises the likelihood most, count(ab) / (count(a) count(b)). That score prefers
    pairs of rare pieces; the count gives frequent words a token of their own, which a small vocabulary needs, and
    Hugging Face's trainer uses it too. What remains of WordPiece is the "##" and the longest match.

    Characters beyond the `limit_alphabet` most frequent ones are left out, with every word that has one. The vocabulary
    is shorter than `vocab_size` when no pair occurs `min_frequency` times any more.
    InputError: `texts` is one string, holds no word, or `vocab_size` is too small for the alphabet.
    """
    if min_frequency < 1 or limit_alphabet < 1:
        raise InputError(f"min_frequency {min_frequency} and limit_alphabet {limit_alphabet} must both be at least 1")
    words = _count_words(texts, lowercase)
    characters: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            characters[character] += count
    alphabet = set(sorted(characters, key=lambda character: (-characters[character], character))[:limit_alphabet])
    words = {word: count for word, count in words.items() if alphabet.issuperset(word)}
    initials = sorted({word[0] for word in words})
    followers = sorted({"##" + character for word in words for character in word[1:]})
    vocab = [*SPECIAL_TOKENS, *initials, *followers]
    if vocab_size < len(vocab):
        raise InputError(
            f"vocab_size {vocab_size} is too small: the special tokens and the text's characters, alone and with ##, "
            f"are {len(vocab)} already; ask for more, or set limit_alphabet"
        )
    _add_merges(vocab, words, vocab_size, min_frequency)
    return vocab


def _count_words(texts: Iterable[str], lowercase: bool) -> dict[str, int]:
    """Count the words of all texts, splitting each distinct chunk once. A word so long that it is [UNK] is left out."""
    if isinstance(texts, str):
        raise InputError("train_wordpiece: got a string, expected an iterable of texts; write [text] for one text")
    chunks: Counter[str] = Counter()
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"train_wordpiece: got a text of type {type(text).__name__}, expected str")
        chunks.update(split_chunks(text))
    words: Counter[str] = Counter()
    for chunk, count in chunks.items():
        for word in split_words(chunk, lowercase):
            if len(word) <= MAX_WORD_CHARS:
                words[word] += count
    if not words:
        raise InputError("train_wordpiece: the texts hold no word, expected some; is the file empty?")
    return words


def _add_merges(vocab: list[str], words: Mapping[str, int], vocab_size: int, min_frequency: int) -> None:
    """Append merged pieces to `vocab`, recounting only the words that a merge changed."""
    ids = {piece: index for index, piece in enumerate(vocab)}
    spellings = [[ids[word[0]], *(ids["##" + character] for character in word[1:])] for word in words]
    counts = list(words.values())
    pair_counts: Counter[tuple[int, int]] = Counter()
    words_with: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for index, spelling in enumerate(spellings):
        for pair in pairwise(spelling):
            pair_counts[pair] += counts[index]
            words_with[pair].append(index)
    heap = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(heap)
    while heap and len(vocab) < vocab_size:
        negative_count, pair = heapq.heappop(heap)
        if -negative_count < min_frequency:
            break  # an entry may be too high, never too low: no pair is left that is frequent enough
        if pair_counts[pair] != -negative_count:  # other merges took some of its places: back to the queue
            heapq.heappush(heap, (-pair_counts[pair], pair))
            continue
        piece = vocab[pair[0]] + vocab[pair[1]].removeprefix("##")
        merged_id = ids.setdefault(piece, len(vocab))  # two different pairs may spell the same piece
        if merged_id == len(vocab):
            vocab.append(piece)
        raised = {}
        for index in dict.fromkeys(words_with.pop(pair)):  # each word once, in a fixed order
            before = spellings[index]
            after = spellings[index] = _merge(before, pair, merged_id)
            for old in pairwise(before):
                pair_counts[old] -= counts[index]
            for new in pairwise(after):
                pair_counts[new] += counts[index]
                if merged_id in new:
                    words_with[new].append(index)
                    raised[new] = True
        for new in raised:
            heapq.heappush(heap, (-pair_counts[new], new))


def _merge(spelling: list[int], pair: tuple[int, int], merged_id: int) -> list[int]:
    """Replace `pair` by `merged_id` from left to right."""
    merged: list[int] = []
    index = 0
    while index < len(spelling):
        if tuple(spelling[index : index + 2]) == pair:
            merged.append(merged_id)
            index += 2
        else:
            merged.append(spelling[index])
            index += 1
    return merged
