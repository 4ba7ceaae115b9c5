from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from geoloss_kernels.lesions.errors import InputError, InputWarning
from geoloss_kernels.lesions.subjects.layouts import load_subjects
from geoloss_kernels.lesions.subjects.splits import assign_splits
from geoloss_kernels.lesions.subjects.subject import Subject
from geoloss_kernels.lesions.subjects.table import format_table, read_table


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def make_folders(root: Path, count: int = 3) -> Path:
    for number in range(count):
        touch(root / f"s{number}", "T1.nii.gz", "T2.nii.gz", "FLAIR.nii.gz", "lesions.nii.gz")
    return root


@pytest.mark.parametrize(
    "names",
    [
        ("T1.nii.gz", "T2.nii.gz", "FLAIR.nii.gz", "lesions.nii.gz"),
        ("P1_T1.nii", "P1_T2.nii", "P1_FLAIR.nii", "P1_MASK.nii"),
        (
            "T1W.nii.gz",
            "T2W.nii.gz",
            "FLAIR.nii.gz",
            "T1WKS.nii.gz",
            "consensus_gt.nii.gz",
            "brainmask.nii.gz",
        ),
        (
            "anat/sub-1_T1w.nii.gz",
            "anat/sub-1_T2w.nii.gz",
            "anat/sub-1_FLAIR.nii.gz",
            "sub-1_lesion_mask.nii.gz",
        ),
        (
            "pre/a_mprage_pp.nii",
            "pre/a_t2_pp.nii",
            "pre/a_flair_pp.nii",
            "masks/a_mask.nii",
            "brain_mask.nii.gz",
        ),
    ],
)
def test_common_names_are_recognised(tmp_path: Path, names: tuple[str, ...]) -> None:
    folder = touch(tmp_path / "s1", *names)
    mask = next(name for name in names if any(word in name.lower() for word in ("lesion", "_mask", "gt")))
    (subject,) = load_subjects(tmp_path)
    assert subject.name == "s1"
    assert [subject.images[m] for m in ("t1", "t2", "flair")] == [folder / name for name in names[:3]]
    assert subject.mask == folder / mask


def test_groups_of_subjects_are_entered(tmp_path: Path) -> None:
    for patient in ("p1", "p2"):
        touch(tmp_path / "centre1" / patient, "in/T1.nii", "in/T2.nii", "in/FLAIR.nii", "out/consensus.nii")
    assert [subject.name for subject in load_subjects(tmp_path)] == ["centre1_p1", "centre1_p2"]


def test_bids_with_masks_in_the_derivatives(tmp_path: Path) -> None:
    for session in ("ses-1", "ses-2"):
        stem = f"sub-1/{session}/anat/sub-1_{session}"
        touch(tmp_path, f"{stem}_T1w.nii.gz", f"{stem}_T2w.nii.gz", f"{stem}_FLAIR.nii.gz")
        touch(tmp_path / "derivatives" / "manual", f"{stem}_label-lesion_mask.nii.gz", f"{stem}_T1w.nii.gz")
    touch(tmp_path, "code/x.nii")
    first, second = load_subjects(tmp_path)
    assert (first.name, second.name) == ("sub-1_ses-1", "sub-1_ses-2")
    mask = "derivatives/manual/sub-1/ses-2/anat/sub-1_ses-2_label-lesion_mask.nii.gz"
    assert second.mask == tmp_path / mask
    assert second.images["t1"] == tmp_path / "sub-1/ses-2/anat/sub-1_ses-2_T1w.nii.gz"


def test_split_folders(tmp_path: Path) -> None:
    for split, count in (("train", 2), ("val", 1), ("test", 1)):
        for number in range(count):
            touch(tmp_path / split / f"{split}{number}", "t1.nii", "t2.nii", "flair.nii", "mask.nii")
    subjects = load_subjects(tmp_path)
    assert {s.name: s.split for s in subjects} == {
        "train0": "train",
        "train1": "train",
        "val0": "validation",
        "test0": "test",
    }


def test_patterns_choose_between_files(tmp_path: Path) -> None:
    folder = touch(tmp_path / "s1", "T1.nii", "T2.nii", "FLAIR.nii", "FLAIR_n4.nii", "mask.nii", "raw/T1.nii")
    with pytest.raises(
        InputError, match=r"several files match t1: T1.nii, raw/T1.nii; give a pattern t1=REGEX"
    ):
        load_subjects(tmp_path)
    patterns = {"flair": "flair_n4", "t1": "^raw/T1"}
    (subject,) = load_subjects(tmp_path, patterns=patterns)
    assert subject.images["flair"] == folder / "FLAIR_n4.nii"
    assert subject.images["t1"] == folder / "raw/T1.nii"


def test_other_modalities_need_a_pattern(tmp_path: Path) -> None:
    touch(tmp_path / "s1", "pd.nii", "mask.nii")
    with pytest.raises(InputError, match="modality pd has no file name pattern"):
        load_subjects(tmp_path, ["pd"])
    (subject,) = load_subjects(tmp_path, ["pd"], patterns={"pd": "^pd$"})
    assert subject.images == {"pd": tmp_path / "s1" / "pd.nii"}


@pytest.mark.parametrize(
    ("removed", "message"),
    [("T2.nii.gz", "subject s1 has no t2 image"), ("lesions.nii.gz", "subject s1 has no lesion mask")],
)
def test_missing_files(tmp_path: Path, removed: str, message: str) -> None:
    (make_folders(tmp_path) / "s1" / removed).unlink()
    with pytest.raises(InputError, match=message):
        load_subjects(tmp_path)


def test_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"no subjects found; .* folders in it with files matching t1, t2, flair and mask$"
    ):
        load_subjects(tmp_path)
    (make_folders(tmp_path) / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: no NIfTI file"):
        load_subjects(tmp_path)
    with pytest.raises(InputError, match="no such folder or CSV table"):
        load_subjects(tmp_path / "nowhere")


def test_the_folder_of_one_subject(tmp_path: Path) -> None:
    advice = f"folder of one subject: give its parent {tmp_path}"
    with pytest.raises(InputError, match=f"matching flair and mask; .* {re.escape(advice)}$"):
        load_subjects(make_folders(tmp_path) / "s0", ["flair"])


def test_incomplete_subjects_can_be_reported_and_left_out(tmp_path: Path) -> None:
    (make_folders(tmp_path) / "empty").mkdir()
    (tmp_path / "s1" / "T2.nii.gz").unlink()

    def refuse_s2(subject: Subject) -> None:
        if subject.name == "s2":
            raise InputError("s2 is odd")

    reported: list[str] = []
    subjects = load_subjects(
        tmp_path, check=refuse_s2, on_incomplete=lambda name, error: reported.append(f"{name}: {error}")
    )
    assert [subject.name for subject in subjects] == ["s0"]
    assert len(reported) == 3
    assert reported[0].endswith("empty: no NIfTI file (.nii or .nii.gz) in this subject folder")
    assert reported[2] == "s2: s2 is odd"


def test_default_split_is_the_papers_and_reproducible() -> None:
    subjects = [Subject(f"s{number:02d}", {}) for number in range(30)]
    assigned = assign_splits(subjects)
    assert [[s.split for s in assigned].count(split) for split in ("train", "validation", "test")] == [
        15,
        5,
        10,
    ]
    assert [s.name for s in assigned] == [s.name for s in subjects]
    assert {s.name: s.split for s in assign_splits(subjects[::-1])} == {s.name: s.split for s in assigned}
    assert assign_splits(subjects, seed=1) != assigned


def test_table_round_trip(tmp_path: Path) -> None:
    subjects = load_subjects(make_folders(tmp_path / "data"))
    (tmp_path / "absolute.csv").write_text(format_table(subjects))
    (tmp_path / "relative.csv").write_text(format_table(subjects, relative_to=tmp_path))
    assert "data/s0/T1.nii.gz" in (tmp_path / "relative.csv").read_text().splitlines()[1].split(",")
    assert load_subjects(tmp_path / "absolute.csv") == subjects
    assert load_subjects(tmp_path / "relative.csv") == subjects


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,t1\n", "expected a column named subject, got name, t1"),
        ("subject,t1\n,a.nii\n", "a row has no subject name"),
        ("subject,t1,split\ns,a.nii,tset\n", "s: split: expected one of train, validation, test, got 'tset'"),
        ("subject,t1,mask\ns,missing.nii,a.nii\n", r"missing.nii: no such file \(subject s\)"),
        ("subject,t1,mask\ns,a.nii,m.nii\ns,a.nii,m.nii\n", "two subjects are named s"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path, "a.nii", "m.nii")
    table = tmp_path / "table.csv"
    table.write_text(text)
    with pytest.raises(InputError, match=message):
        load_subjects(table, ["t1"])


def test_missing_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"t.csv: no such file"):
        read_table(tmp_path / "t.csv")


def make_nnunet(root: Path, cases: int = 3, held_out: int = 1) -> Path:
    root.mkdir()
    description = {"channel_names": {"0": "FLAIR", "1": "T1", "2": "T2"}, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(description))
    for part, count in (("Tr", cases), ("Ts", held_out)):
        for case in range(count):
            channels = [f"images{part}/c{part}_{case}_{channel:04d}.nii.gz" for channel in range(3)]
            touch(root, *channels, f"labels{part}/c{part}_{case}.nii.gz")
    return root


def test_nnunet_layout_with_splits(tmp_path: Path) -> None:
    root = make_nnunet(tmp_path / "Dataset001_MS")
    folds = [{"train": ["cTr_0", "cTr_1"], "val": ["cTr_2"]}, {"train": ["cTr_2"], "val": ["cTr_0", "cTr_1"]}]
    (root / "splits_final.json").write_text(json.dumps(folds))
    subjects = load_subjects(root, fold=1)
    assert {s.name: s.split for s in subjects} == {
        "cTr_0": "validation",
        "cTr_1": "validation",
        "cTr_2": "train",
        "cTs_0": "test",
    }
    assert subjects[0].images["t1"] == root / "imagesTr" / "cTr_0_0001.nii.gz"
    assert subjects[0].images["flair"] == root / "imagesTr" / "cTr_0_0000.nii.gz"
    assert subjects[0].mask == root / "labelsTr" / "cTr_0.nii.gz"
    with pytest.raises(InputError, match=r"splits_final.json: no fold 2"):
        load_subjects(root, fold=2)


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    """A program that was killed leaves its temporary files."""
    raw, folders = make_nnunet(tmp_path / "raw"), make_folders(tmp_path / "folders")
    touch(raw, "imagesTr/.123.case0_0000.nii.gz", "imagesTr/._case0_0000.nii.gz")
    touch(folders, "s0/.123.T1.nii.gz")
    assert len(load_subjects(raw)) == 4
    assert [subject.images["t1"].name for subject in load_subjects(folders)] == ["T1.nii.gz"] * 3


def test_nnunet_layout_without_splits(tmp_path: Path) -> None:
    subjects = load_subjects(make_nnunet(tmp_path / "held_out", cases=6))
    assert [s.split for s in subjects].count("test") == 1
    assert [s.split for s in subjects].count("validation") == 1
    subjects = load_subjects(make_nnunet(tmp_path / "all", cases=6, held_out=0))
    assert [[s.split for s in subjects].count(split) for split in ("train", "validation", "test")] == [
        3,
        1,
        2,
    ]


def test_bad_nnunet_layouts(tmp_path: Path) -> None:
    root = make_nnunet(tmp_path / "set")
    (root / "splits_final.json").write_text(json.dumps([{"train": ["absent"], "val": []}]))
    with pytest.raises(InputError, match="fold 0 names absent, which has no images"):
        load_subjects(root)
    (root / "splits_final.json").write_text(json.dumps([{"train": ["cTr_0"], "val": ["cTr_1", "cTr_0"]}]))
    with pytest.raises(InputError, match=r"splits_final.json: fold 0 names cTr_0 in train and in val"):
        load_subjects(root)
    for fold in ({"train": ["cTr_0"]}, {"train": ["cTr_0"], "val": "cTr_1"}, ["cTr_0"]):
        (root / "splits_final.json").write_text(json.dumps([fold]))
        with pytest.raises(
            InputError, match=r"splits_final.json: expected a list of names (train|val) in fold 0"
        ):
            load_subjects(root)
    touch(root, "imagesTr/cTr_0_0007.nii.gz")
    with pytest.raises(InputError, match=r"cTr_0_0007.nii.gz: channel 0007 is not in dataset.json"):
        load_subjects(root)
    (root / "dataset.json").write_text("{")
    with pytest.raises(InputError, match=r"dataset.json: not valid JSON"):
        load_subjects(root)


def splits_by(subjects: list[Subject], length: int) -> dict[str, set[str]]:
    """First letters of the names -> splits."""
    found: dict[str, set[str]] = {}
    for subject in subjects:
        found.setdefault(subject.name[:length], set()).add(subject.split)
    return found


class TestPeople:
    @pytest.mark.parametrize(
        ("name", "person"),
        [
            ("sub-1_ses-2", "sub-1"),
            ("sub-01_ses-m12_run-2", "sub-01"),
            ("centre1_sub-1_ses-1", "centre1_sub-1"),
            ("sub-10", "sub-10"),
            ("anna_session3", "anna"),
            ("anna-visit2", "anna"),
            ("p07_tp12", "p07"),
            ("p07_time1", "p07"),
            ("p07_baseline", "p07"),
            ("p07_follow-up2", "p07"),
            ("p07_2020-05-01", "p07"),
            ("p07_20200501", "p07"),
            ("patient_19", "patient_19"),
            ("case0001", "case0001"),
            ("tp_1", "tp_1"),
        ],
    )
    def test_names(self, name: str, person: str) -> None:
        assert Subject(name, {}).person == person

    @pytest.mark.parametrize(
        "sessions", [("ses-1", "ses-2", "ses-3"), ("baseline", "year2", "y5"), ("1", "2", "3")]
    )
    def test_sessions_in_folders_of_a_person_stay_together(
        self, tmp_path: Path, sessions: tuple[str, ...]
    ) -> None:
        for person in range(8):
            for session in sessions:
                folder = tmp_path / f"x{person}" / session
                touch(folder, "T1.nii.gz", "T2.nii.gz", "FLAIR.nii.gz", "lesions.nii.gz")
        subjects = load_subjects(tmp_path)
        assert len(subjects) == 24
        assert all(len(splits) == 1 for splits in splits_by(subjects, 2).values())
        assert [sum(s.split == split for s in subjects) for split in ("train", "validation", "test")] == [
            12,
            3,
            9,
        ]
        table = tmp_path / "table.csv"
        table.write_text(format_table(subjects))
        assert load_subjects(table) == subjects

    def test_centres_hold_people(self, tmp_path: Path) -> None:
        for centre in ("centre1", "Site_B"):
            for person in range(6):
                folder = tmp_path / centre / f"{'p' if centre == 'centre1' else 'x'}{person}"
                touch(folder, "T1.nii.gz", "T2.nii.gz", "FLAIR.nii.gz", "lesions.nii.gz")
        subjects = load_subjects(tmp_path)
        assert {subject.person for subject in subjects} == {subject.name for subject in subjects}

    def test_sessions_of_people_in_centres(self, tmp_path: Path) -> None:
        for person in range(6):
            for session in ("a", "b"):
                folder = tmp_path / "centre1" / f"p{person}" / session
                touch(folder, "T1.nii.gz", "T2.nii.gz", "FLAIR.nii.gz", "lesions.nii.gz")
        subjects = load_subjects(tmp_path)
        assert {subject.name: subject.patient for subject in subjects}["centre1_p3_b"] == "centre1_p3"
        assert all(len(splits) == 1 for splits in splits_by(subjects, len("centre1_p0")).values())

    def test_names_of_bids_in_a_table(self, tmp_path: Path) -> None:
        touch(tmp_path, *(f"{number}.nii" for number in range(4)))
        rows = [
            f"sub-{person}_ses-{session},0.nii,1.nii,2.nii,3.nii"
            for person in range(6)
            for session in range(3)
        ]
        (tmp_path / "t.csv").write_text("\n".join(["subject,t1,t2,flair,mask", *rows]))
        assert all(len(splits) == 1 for splits in splits_by(load_subjects(tmp_path / "t.csv"), 5).values())

    def test_a_column_says_who_it_is(self, tmp_path: Path) -> None:
        touch(tmp_path, *(f"{number}.nii" for number in range(4)))
        rows = [f"scan{number},0.nii,1.nii,2.nii,3.nii,{'abcdef'[number % 6]}" for number in range(18)]
        (tmp_path / "t.csv").write_text("\n".join(["subject,t1,t2,flair,mask,patient", *rows]))
        subjects = load_subjects(tmp_path / "t.csv")
        assert {subject.person for subject in subjects} == set("abcdef")
        by_person = {person: {s.split for s in subjects if s.patient == person} for person in "abcdef"}
        assert all(len(splits) == 1 for splits in by_person.values())
        assert "patient" in format_table(subjects).splitlines()[0].split(",")

    def test_given_splits_that_share_a_person_are_told(self, tmp_path: Path) -> None:
        touch(tmp_path, *(f"{number}.nii" for number in range(4)))
        rows = [f"sub-1_ses-{k},0.nii,1.nii,2.nii,3.nii,{split}" for k, split in enumerate(("train", "test"))]
        (tmp_path / "t.csv").write_text("\n".join(["subject,t1,t2,flair,mask,split", *rows]))
        with pytest.warns(
            InputWarning, match=r"t.csv: sessions of one person .* too good: sub-1 in test and train"
        ):
            subjects = load_subjects(tmp_path / "t.csv")
        assert [subject.split for subject in subjects] == ["train", "test"]

    def test_one_person_is_trained_on(self) -> None:
        subjects = [Subject(f"sub-1_ses-{session}", {}) for session in range(5)]
        assert {subject.split for subject in assign_splits(subjects)} == {"train"}


class TestWhichFileIsWhat:
    def test_a_file_of_two_columns(self, tmp_path: Path) -> None:
        folder = touch(tmp_path / "s1", "T2.nii.gz", "FLAIR_to_T1.nii.gz", "lesions.nii.gz")
        with pytest.raises(
            InputError, match=r"s1/FLAIR_to_T1.nii.gz: matches t1 and flair; give a pattern t1="
        ):
            load_subjects(tmp_path)
        touch(folder, "T1.nii.gz")
        (subject,) = load_subjects(tmp_path, patterns={"t1": "^T1$"})
        assert subject.images["flair"] == folder / "FLAIR_to_T1.nii.gz"

    @pytest.mark.parametrize("first", ["t1", "mask"])
    def test_a_file_of_two_columns_of_a_table(self, tmp_path: Path, first: str) -> None:
        touch(tmp_path, "a.nii", "b.nii", "c.nii")
        (tmp_path / "t.csv").write_text(
            f"subject,t1,t2,flair,mask\ns,a.nii,b.nii,{'a' if first == 't1' else 'c'}.nii,c.nii\n"
        )
        with pytest.raises(InputError, match=r"[ac].nii: is both (t1 and flair|flair and mask) of subject s"):
            load_subjects(tmp_path / "t.csv")

    def test_the_suffix_of_a_bids_name_decides(self, tmp_path: Path) -> None:
        stem = "sub-1_ses-2_space"
        folder = touch(
            tmp_path / "sub-1" / "anat",
            f"{stem}-FLAIR_T1w.nii.gz",
            f"{stem}-T1w_T2w.nii.gz",
            "sub-1_ses-2_desc-mask_FLAIR.nii.gz",
            f"{stem}-T1w_label-lesion_mask.nii.gz",
        )
        (subject,) = load_subjects(tmp_path)
        assert subject.images["t1"] == folder / f"{stem}-FLAIR_T1w.nii.gz"
        assert subject.images["t2"] == folder / f"{stem}-T1w_T2w.nii.gz"
        assert subject.images["flair"] == folder / "sub-1_ses-2_desc-mask_FLAIR.nii.gz"
        assert subject.mask == folder / f"{stem}-T1w_label-lesion_mask.nii.gz"

    @pytest.mark.parametrize("other", ["Mask.nii.gz", "t1_mask.nii.gz", "p1_MASK.nii"])
    def test_a_plain_mask_beside_one_of_lesions(self, tmp_path: Path, other: str) -> None:
        folder = touch(tmp_path / "s1", "T1.nii.gz", "T2.nii.gz", "FLAIR.nii.gz", "lesions.nii.gz", other)
        (subject,) = load_subjects(tmp_path)
        assert subject.mask == folder / "lesions.nii.gz"

    def test_two_masks_of_lesions(self, tmp_path: Path) -> None:
        touch(tmp_path / "s1", "T1.nii.gz", "T2.nii.gz", "FLAIR.nii.gz", "lesions.nii.gz", "wmh.nii.gz")
        with pytest.raises(InputError, match=r"several files match mask: lesions.nii.gz, wmh.nii.gz"):
            load_subjects(tmp_path)

    @pytest.mark.parametrize("names", [{"0": "MRI", "1": "mri", "2": "T2"}, {"0": "x", "1": " x"}])
    def test_channels_of_one_name(self, tmp_path: Path, names: dict[str, str]) -> None:
        root = make_nnunet(tmp_path / "set")
        (root / "dataset.json").write_text(json.dumps({"channel_names": names}))
        with pytest.raises(
            InputError, match=r"dataset.json: expected channel_names that differ, got .* 0, 1, of which"
        ):
            load_subjects(root, ["mri"])

    def test_channels_of_one_number(self, tmp_path: Path) -> None:
        root = make_nnunet(tmp_path / "set")
        (root / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1", "00": "T2"}}))
        with pytest.raises(
            InputError, match=r"dataset.json: expected channel_names of different numbers, got 0, 00"
        ):
            load_subjects(root)

    @pytest.mark.parametrize("content", ["[]", '{"channel_names": {"a": "T1"}}', "[" * 100000, "\xff"])
    def test_descriptions_that_describe_nothing(self, tmp_path: Path, content: str) -> None:
        root = make_nnunet(tmp_path / "set")
        (root / "dataset.json").write_text(content, encoding="latin-1")
        with pytest.raises(InputError, match=r"dataset.json: (expected|not valid JSON)"):
            load_subjects(root)


class TestMasks:
    def test_only_splits_that_use_them_need_masks(self, tmp_path: Path) -> None:
        root = make_nnunet(tmp_path / "set")
        (root / "labelsTs" / "cTs_0.nii.gz").unlink()
        with pytest.raises(InputError, match="subject cTs_0 has no lesion mask"):
            load_subjects(root)
        subjects = load_subjects(root, masks_for=("train", "validation"))
        assert [subject.name for subject in subjects if subject.mask is None] == ["cTs_0"]
        (root / "labelsTr" / "cTr_1.nii.gz").unlink()
        with pytest.raises(InputError, match="subject cTr_1 has no lesion mask"):
            load_subjects(root, masks_for=("train", "validation"))


class TestTables:
    @pytest.mark.parametrize("name", ["../../esc", "..", ".hidden", "/tmp/esc", "a/b", "a\\b", "a\tb"])
    def test_names_lead_nowhere(self, tmp_path: Path, name: str) -> None:
        touch(tmp_path, "a.nii", "b.nii", "c.nii", "d.nii")
        table = tmp_path / "t.csv"
        table.write_text(f"subject,t1,t2,flair,mask\n{name},a.nii,b.nii,c.nii,d.nii\n")
        with pytest.raises(
            InputError, match=r"t.csv: line 2: subject: expected a name that can be part of a file's"
        ):
            load_subjects(table)
        table.write_text(f"subject,t1,t2,flair,{name}\ns,a.nii,b.nii,c.nii,d.nii\n")
        with pytest.raises(InputError, match=r"t.csv: line 2: s: modality: expected a name that can be part"):
            load_subjects(table)

    @pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "utf-32", "cp500"])
    def test_other_encodings(self, tmp_path: Path, encoding: str) -> None:
        table = tmp_path / "t.csv"
        table.write_bytes("subject,t1\nrené,a.nii\n".encode(encoding))
        with pytest.raises(InputError, match=r"t.csv: expected (text in UTF-8|a column named subject)"):
            load_subjects(table)

    def test_utf_8_with_and_without_its_mark(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.nii", "m.nii")
        for encoding in ("utf-8", "utf-8-sig"):
            (tmp_path / "t.csv").write_bytes("subject,t1,mask\nrené,a.nii,m.nii\n".encode(encoding))
            (subject,) = load_subjects(tmp_path / "t.csv", ["t1"])
            assert subject.name == "rené"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("subject,t1,t1\ns,a.nii,b.nii\n", "expected columns of different names, got t1 more than once"),
            (
                "subject,t1\ns,a.nii,b.nii,c.nii\n",
                "line 2: expected at most 2 cells, one for each column, got 4",
            ),
            (f"subject,t1\ns,{'a' * 200000}\n", "line 2: not a CSV table: field larger than field limit"),
        ],
    )
    def test_rows_that_do_not_fit(self, tmp_path: Path, text: str, message: str) -> None:
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(InputError, match=f"t.csv: {message}"):
            load_subjects(tmp_path / "t.csv", ["t1"])
