"""The errors of ocr-onnx. Each names its subject, what is wrong with it and the remedy.

::

    OcrError
    ├── OptionError          an option's value, a config key, a request that contradicts itself
    ├── InputError           an image, PDF, folder or URL that can't be read
    │   └── TooLargeError        beyond a bound on bytes, pixels or pages
    ├── ModelError           a model file that is not what it should be
    │   ├── ModelMissingError    unknown name, or not on this machine
    │   ├── ModelHashError       bytes differ from the manifest
    │   └── ModelContractError   not ONNX, wrong stage, wrong dictionary
    ├── DownloadError        a model file that could not be fetched
    ├── ServerError          an ocr-onnx server that can't be reached, refuses or answers with nonsense
    ├── DeviceError          a device that was asked for and can't be used
    └── DependencyError      a package that is missing, or installed twice over
"""


class OcrError(Exception):
    """Base of every error raised on purpose.

    `subject` is what the error is about (a path, an option, a device), `problem` what is wrong
    with it and `remedy` what the user can do. All three are mandatory, so no message lacks one.
    """

    def __init__(self, subject: str, problem: str, remedy: str) -> None:
        super().__init__(subject, problem, remedy)
        self.subject = subject
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.subject}: {self.problem}; {self.remedy}"


class OptionError(OcrError):
    """An option is out of range, unknown, or contradicts another."""


class InputError(OcrError):
    """Something handed in to be read is missing, broken or beyond a bound."""


class TooLargeError(InputError):
    """Something handed in to be read is beyond a bound on bytes, pixels or pages."""


class ModelError(OcrError):
    """A model file is not what it should be."""


class ModelMissingError(ModelError):
    """No such model, or it is not on this machine and may not be fetched."""


class ModelHashError(ModelError):
    """A model file's bytes differ from what the manifest pins."""


class ModelContractError(ModelError):
    """A file is not ONNX, belongs to another stage, or its dictionary does not fit."""


class DownloadError(OcrError):
    """A file could not be downloaded."""


class ServerError(OcrError):
    """An ocr-onnx server can't be reached, refuses, is busy, or answers with what is no result.

    `status` is that of its HTTP answer; 0 where none came, or none that could be understood.
    """

    def __init__(self, subject: str, problem: str, remedy: str, status: int = 0) -> None:
        super().__init__(subject, problem, remedy)
        self.status = status


class DeviceError(OcrError):
    """A device was asked for that this machine or this installation can't use."""


class DependencyError(OcrError):
    """A package is missing, or two packages claim one import name."""
