"""Tests and then trains scikit-learn's random forest on a stream, as `rubato bench learn --peers` asks for it.

Standard input is the stream as CSV, the last column the target. The forest cannot learn a single sample, so it is trained
anew on the last 16,384 rows: after 100, 200, 500 and 1,000 rows, and then every 1,000. Before that the mean of the targets
speaks. Standard output is one JSON object: mae, rmse and microseconds a sample.
"""

import json
import sys
import time

import numpy as np
from sklearn.ensemble import RandomForestRegressor

WINDOW, EVERY, BLOCK = 16384, 1000, 100


def main():
    data = np.loadtxt(sys.stdin, delimiter=",", ndmin=2)
    x, y = data[:, :-1], data[:, -1]
    errors = np.empty(len(y))
    forest = None
    began = time.perf_counter()
    for start in range(0, len(y), BLOCK):
        if start in (100, 200, 500) or start > 0 and start % EVERY == 0:
            rows = slice(max(0, start - WINDOW), start)
            forest = RandomForestRegressor(n_estimators=48, n_jobs=-1, random_state=int(sys.argv[1]))
            forest.fit(x[rows], y[rows])
        end = min(start + BLOCK, len(y))
        if forest is not None:
            said = forest.predict(x[start:end])
        else:
            said = np.concatenate(([0.0], np.cumsum(y[: end - 1]) / np.arange(1, end)))[start:end]
        errors[start:end] = said - y[start:end]
    took = time.perf_counter() - began
    json.dump(
        {
            "mae": float(np.mean(np.abs(errors))),
            "rmse": float(np.sqrt(np.mean(errors**2))),
            "us": took / max(len(y), 1) * 1e6,
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
