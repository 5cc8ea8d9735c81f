// Package uring is as much of Linux's io_uring (io_uring(7), since Linux 5.6) as
// a disk needs: reads and writes on one file, by one owner, with completions told
// by an eventfd.
//
// The kernel is trusted. Memory that was given to Read and Write belongs to it
// until the completion was reaped; the caller keeps it alive.
package uring
