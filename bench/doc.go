// Package bench measures: the demo (every policy on the same arrivals, on a real cluster with real functions) and the
// benchmark suites behind `rubato bench`. It starts its own clusters in temporary folders on loopback, stops them, and
// returns figures; printing is its caller's, but for the table forms that belong to a result. Milliseconds are
// float64, sizes bytes.
package bench
