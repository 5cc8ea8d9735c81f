// Package nbd is the server side of the NBD protocol, fixed newstyle.
package nbd
