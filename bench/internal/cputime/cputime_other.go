//go:build !linux && !darwin

package cputime

import "time"

// Process returns 0: the CPU columns are empty here.
func Process() time.Duration { return 0 }
