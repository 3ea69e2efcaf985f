// Package layers holds the shape of the repository: which package may import which, what packages are called, and that nothing
// here needs a place outside the repository. It has no code of its own, only tests; the picture behind them is in docs/design.md.
package layers
