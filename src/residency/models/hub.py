"""Models of the Hub, by name, through its cache."""

from __future__ import annotations

from pathlib import Path

from residency import progress
from residency.config.model import Model
from residency.errors import ModelError, ResourceError
from residency.models.starter import STARTER_ID


def is_hub_id(name: str) -> bool:
    """`name` or `org/name`; anything that looks like a path is a path."""
    return name.count("/") <= 1 and name[0] not in "./~" and not name.endswith("/")


def fetch_from_hub(model: Model, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

    wanted = ["*.json", "*.jinja", "*.txt", "*.model", *(["*.safetensors"] if weights else [])]
    wanted += ["*.py"] if model.trust_remote_code else []
    name = f"{model.id}@{model.revision}" if model.revision else model.id
    (enable_progress_bars if progress.enabled else disable_progress_bars)()
    try:
        return Path(
            snapshot_download(
                model.id, revision=model.revision, allow_patterns=wanted, ignore_patterns=["*/*", "consolidated*"]
            )
        )
    except HFValidationError:
        raise unknown(model, f"{model.id!r} is neither a folder nor a Hub id") from None
    except GatedRepoError:
        hint = "accept its terms on its page on the Hub, then run `hf auth login` or set HF_TOKEN"
        raise ModelError(f"the model {name} asks for permission", hint=hint, param="model.id") from None
    except RevisionNotFoundError:
        hint = "name a branch, tag or commit that exists, or leave model.revision out"
        raise ModelError(f"the Hub has no {name}", hint=hint, param="model.revision") from None
    except RepositoryNotFoundError:
        raise unknown(model, f"the Hub has no model {name} (or it is private)") from None
    except (LocalEntryNotFoundError, HfHubHTTPError) as error:
        raise ModelError(
            f"the model {name} is not on this machine and the Hub cannot be reached",
            hint=f"connect to the network and run `residency models fetch {model.id}` once, "
            f"or set model.id to a local folder or to the starter model {STARTER_ID}",
            param="model.id",
            problems=[str(error).splitlines()[0]],
        ) from None
    except OSError as error:
        hint = "free some space, or name another folder in the environment variable HF_HOME"
        raise ResourceError(f"cannot store the model {name}: {error.strerror}", hint=hint, param="model.id") from error


def unknown(model: Model, message: str) -> ModelError:
    hint = f"set model.id to the starter model {STARTER_ID}, to a Hub id such as Qwen/Qwen3-4B, or to a folder"
    return ModelError(message, hint=hint, param="model.id")
