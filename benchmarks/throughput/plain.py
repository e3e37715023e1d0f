"""The script that most people would write first; no line of it is of this project.

``python -m benchmarks.throughput.plain DATABASE FILE...`` prints the time, as JSON.
"""

import json
import sqlite3
import sys
import time

import numpy as np
from astropy.io import fits
from keras.applications import ResNet50
from PIL import Image


def main() -> None:
    """Turn every image of every file into an embedding, and each into a row."""
    database, *paths = sys.argv[1:]
    model = ResNet50(include_top=False, weights=None, pooling="avg")
    model.predict(np.zeros((1, 224, 224, 3), np.float32), verbose=0)  # its start is not counted
    rows = sqlite3.connect(database)
    rows.execute("CREATE TABLE embedding (path TEXT, number INTEGER, vector BLOB)")
    began, began_core = time.perf_counter(), time.process_time()
    for path in paths:
        with fits.open(path) as units:
            for number, unit in enumerate(units):
                if unit.data is None:
                    continue
                pixels = unit.data.astype(float)
                low, high = pixels.min(), pixels.max()
                picture = Image.fromarray(((pixels - low) / (high - low) * 255).astype(np.uint8))
                small = np.asarray(picture.resize((224, 224)), np.float32)
                batch = np.repeat(small[np.newaxis, :, :, np.newaxis], 3, axis=3)
                vector = model.predict(batch, verbose=0)[0]
                row = (path, number, vector.tobytes())
                rows.execute("INSERT INTO embedding VALUES (?, ?, ?)", row)
                rows.commit()
    seconds, core = time.perf_counter() - began, time.process_time() - began_core
    print(json.dumps({"frames": len(paths), "seconds": seconds, "core_seconds": core}))


if __name__ == "__main__":
    main()
