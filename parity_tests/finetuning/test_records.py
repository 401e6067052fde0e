"""Files of the user: tables as pandas reads them, JSON, and what is wrong where."""

import io
import json

import pytest

from npgpt.errors import InputError
from npgpt.finetuning import records
from npgpt.finetuning.records import read_records

FIELDS = "label", "text"
TABLES = [  # tab-separated rows with quotation marks in all places, and line ends of all kinds
    'ham\tone\nspam\t"two"\n',
    'ham\tsays "hi" twice\nham\t"a ""quoted"" word"\nspam\tend"\n',
    'ham\t"begins so\nham\tand ends here"\nspam\tlast',
    'ham\t"closed" and more\nspam\t""\'x\n\n\nham\ta,b;c\n',
    'ham\tcrlf\r\nspam\t"in\r\nside"\r\nham\told mac\rspam\té ü 漢\n',
    '"ham"\t\' \\" \\t\nspam\t "space first"\n',
]


def write(tmp_path, content, name="texts.tsv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_read_as_pandas_reads_it(tmp_path, table):
    pandas = pytest.importorskip("pandas")
    options = dict(sep="\t", header=None, names=list(FIELDS), keep_default_na=False)
    expected = pandas.read_csv(io.BytesIO(table.encode()), **options)
    assert read_records(write(tmp_path, table), FIELDS) == expected.to_dict("records")


@pytest.mark.parametrize(
    "name, content",
    [
        ("SMSSpamCollection", "a\tx, y\nb\tz\n"),
        ("x.CSV", 'a,"x, y"\nb,z\n'),
        ("x.csv", '\ufeffText,other,LABEL\n"x, y",1,a\nz,2,b\n'),
        ("x.json", json.dumps([{"label": "a", "text": "x, y"}, {"label": "b", "text": "z"}])),
        ("x.jsonl", '{"label": "a", "text": "x, y"}\n\n{"text": "z", "label": "b", "n": 1}'),
    ],
)
def test_one_set_of_records_in_five_forms(tmp_path, name, content):
    found = read_records(write(tmp_path, content, name), FIELDS)
    assert [(one["label"], one["text"]) for one in found] == [("a", "x, y"), ("b", "z")]


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("x.tsv", "a\tone\n\nb two\n", "line 3: it has 1 columns, but must have 2: label, text"),
        ("x.tsv", 'a\t"two\nlines"\nb\tx\ty\n', "line 3: it has 3 columns"),
        ("x.tsv", 'a\tone\nb\t"never\nclosed\n', "line 2: a quotation mark is opened, but never"),
        ("x.tsv", "a\tone\nb\t  \n", "line 2: the text is empty"),
        ("x.tsv", "\tone\n", "line 1: the label is empty"),
        ("x.csv", "label,text,n\na,b\n", "line 2: it has 2 columns, but must have 3"),
        ("x.tsv", "a\t" + "y" * 200_000, "line 1: a value has more than 131,072 characters"),
        ("x.tsv", b"a\tx\n\xff", "is not UTF-8: byte 4 is 0xff"),
        ("x.tsv", b"a\t\0\n", "is not text: byte 2 is zero"),
        ("x.tsv", "a\tb\n".encode("utf-16"), "is UTF-16, not UTF-8"),
        ("x.tsv", "label\ttext\n", "has no records: it must have label and text"),
        ("x.json", '{"label": "a"}', "must be a list of JSON objects, not {'label': 'a'}"),
        ("x.json", '[{"label": "a", "text": "b"}, 3]', "entry 2: 3 must be an object of label, te"),
        ("x.json", '[{"label": "a"}]', "entry 1: it has no 'text'"),
        ("x.json", '[{"label": null, "text": "b"}]', "entry 1: label is None, but must be a str"),
        ("x.json", "[" * 5000, "x.json is not JSON"),
        ("x.jsonl", '{"label": "a", "text": "b"}\n{"label"', "line 2, is not JSON"),
        ("x.xlsx", "PK", "has the suffix '.xlsx', but must be .tsv, .csv, .json or .jsonl"),
    ],
)
def test_what_is_wrong_and_where(tmp_path, name, content, says):
    with pytest.raises(InputError) as caught:
        read_records(write(tmp_path, content, name), FIELDS)
    assert says in str(caught.value)


def test_files_that_are_too_large_or_missing(tmp_path, monkeypatch):
    path = write(tmp_path, "a\tb\n")
    monkeypatch.setattr(records, "MAX_SIZE", 3)
    with pytest.raises(InputError, match="it has 4 bytes; at most 3 are read"):
        read_records(path, FIELDS)
    with pytest.raises(InputError, match=r"gone\.tsv cannot be read: No such file"):
        read_records(tmp_path / "gone.tsv", FIELDS)


def test_a_field_that_may_be_empty(tmp_path):
    path = write(tmp_path, '[{"label": "a", "text": ""}, {"label": 1}]', "x.json")
    found = read_records(path, FIELDS, may_be_empty=("text",))
    assert found == [{"label": "a", "text": ""}, {"label": "1", "text": ""}]
