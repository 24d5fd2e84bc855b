"""The checkpoints that are known by name: file, size, sha256, address, licence.

Sizes and sha256 are those of the published files; None where several independent sources could not confirm them.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CATALOGUE", "Model"]

_META = "https://dl.fbaipublicfiles.com/"
_SAM_PAGE, _SAM2_PAGE = "https://github.com/facebookresearch/segment-anything", "https://github.com/facebookresearch/sam2"
_HQ_PAGE, _HUB = "https://github.com/SysCV/sam-hq", "https://huggingface.co/"


@dataclass(frozen=True)
class Model:
    """A known checkpoint. `size` (bytes), `sha256` and `url` are None where no sure value is known.

    `gated`: its page gives the file only to who has accepted the licence there.
    """

    name: str
    file: str
    use: str
    licence: str
    source: str
    size: int | None = None
    sha256: str | None = None
    url: str | None = None
    gated: bool = False


def _sam(name: str, file: str, size: int, sha256: str) -> Model:
    return Model(name, file, f"--masks {name}", "Apache-2.0", _SAM_PAGE, size, sha256, f"{_META}segment_anything/{file}")


def _sam2(size_name: str, version: str, size: int | None, sha256: str) -> Model:
    name, file = f"sam{version}_{size_name}", f"sam{version}_hiera_{size_name}.pt"
    folder = "092824" if version == "2.1" else "072824"
    url = f"{_META}segment_anything_2/{folder}/{file}"
    return Model(name, file, f"--masks {name}", "Apache-2.0", _SAM2_PAGE, size, sha256, url)


def _hq(size_name: str, size: int | None = None, sha256: str | None = None) -> Model:
    name, file = f"sam_hq_{size_name}", f"sam_hq_{size_name}.pth"
    url = f"{_HUB}lkeab/hq-sam/resolve/main/{file}"
    return Model(name, file, f"--masks {name}", "Apache-2.0", _HQ_PAGE, size, sha256, url)


CATALOGUE: tuple[Model, ...] = (
    Model(
        "mobilenet_v2",
        "mobilenet_v2_imagenet.npz",
        "--features mobilenet_v2",
        "Apache-2.0",
        "https://github.com/google-coral/test_data",
        7_044_102,
        "f6a8402851e2e86d72e92dd6b3a113692be2170c3ab7e83d860c0c3bcef53e1e",
    ),
    _sam("sam_vit_b", "sam_vit_b_01ec64.pth", 375_042_383, "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    _sam(
        "sam_vit_l", "sam_vit_l_0b3195.pth", 1_249_524_607, "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"
    ),
    _sam(
        "sam_vit_h", "sam_vit_h_4b8939.pth", 2_564_550_879, "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"
    ),
    _hq("vit_b"),
    _hq("vit_l"),
    _hq("vit_h", 2_570_940_653, "a7ac14a085326d9fa6199c8c698c4f0e7280afdbb974d2c4660ec60877b45e35"),
    _sam2("tiny", "2", 155_906_050, "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125"),
    _sam2("small", "2", None, "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3"),
    _sam2("base_plus", "2", None, "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071"),
    _sam2("large", "2", 897_952_466, "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b"),
    _sam2("tiny", "2.1", 156_008_466, "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69"),
    _sam2("small", "2.1", 184_416_285, "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38"),
    _sam2("base_plus", "2.1", 323_606_802, "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5"),
    _sam2("large", "2.1", 898_083_611, "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318"),
    Model(
        "edgetam",
        "edgetam.pt",
        "--masks edgetam",
        "Apache-2.0",
        "https://github.com/facebookresearch/EdgeTAM",
        56_116_523,
        "ed2d4850b8792c239689b043c47046ec239b6e808a3d9b6ae676c803fd8780df",
        f"{_HUB}facebook/EdgeTAM/resolve/main/edgetam.pt",
    ),
    Model(
        "sam3",
        "sam3.pt",
        "--masks sam3",
        "SAM License",
        f"{_HUB}facebook/sam3",
        3_450_062_241,
        "9999e2341ceef5e136daa386eecb55cb414446a00ac2b55eb2dfd2f7c3cf8c9e",
        f"{_HUB}facebook/sam3/resolve/main/sam3.pt",
        gated=True,
    ),
)
