// Package e2e tests the three programs together, as people run them: real
// guests boot from disks that their owner encrypted, processes are killed at
// bad moments, and every domain has a uid of its own when the tests run as
// root. Without root the same tests run under one uid, apart from those that
// are about the separation itself.
package e2e
