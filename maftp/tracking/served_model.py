"""A trained model as MLflow serves it: images and a vocabulary in, labels out.

MLflow keeps this file with the weights and runs it when the model is loaded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from numpy.typing import NDArray


class SegmentationModel(PythonModel):
    """`predict(images, params={"vocabulary": [...]})` gives what `maftp.segment` labels."""

    def load_context(self, context: Any) -> None:
        """Load the weights; `params` and `weights` are files kept with the model."""
        import maftp

        self._model = maftp.load_model(context.artifacts["params"], context.artifacts["weights"])

    # MLflow would take an annotation of `model_input` for a schema, and knows no arrays there.
    def predict(
        self, context: Any, model_input, params: dict[str, Any] | None = None
    ) -> NDArray[np.int64]:
        """Segment images.

        Args:
            context: not used.
            model_input: (N, H, W, 3) uint8, RGB.
            params: `vocabulary`, the class names with commas between synonyms; `short_side` and
                `max_side` of the network's input in pixels. Defaults stand in the signature.

        Returns:
            (N, H, W) index of the class at each pixel.
        """
        import maftp

        chosen = params or {}
        sizes = {key: int(chosen[key]) for key in ("short_side", "max_side") if key in chosen}
        vocabulary = [str(name) for name in chosen["vocabulary"]]
        labels = [
            maftp.segment(self._model, image, vocabulary, **sizes).labels.astype(np.int64)
            for image in np.asarray(model_input)
        ]
        return np.stack(labels)


set_model(SegmentationModel())
