// Package vhostuser serves a disk.Device as a vhost-user-blk back end (QEMU's
// docs/interop/vhost-user.rst; VIRTIO 1.2, sections 2.7 and 5.2): the guest's
// virtio-blk requests are carried out on guest memory itself, without QEMU in
// between.
//
//	s := &vhostuser.Server{Device: d, Serial: "boot", Queues: 4, Poll: vhostuser.DefaultPoll}
//	err := s.Serve(ctx, listener) // a unix socket; until ctx ends
//
// QEMU's side is -chardev socket,path=…,reconnect=1 and -device vhost-user-blk-pci
// over a -object memory-backend-memfd,share=on. When ctx ends, what the guest has
// started is finished and the connection closed; QEMU connects to the next
// Server and goes on. The Device is closed after Serve has returned. After
// Device.Grow call Server.Resized.
//
// Neither the front end (QEMU) nor the guest is trusted: one of them may have
// been taken over. What either can change while it is read is read once, into
// locals, and checked; what is out of order costs its own queue, or its own
// connection. The Device is trusted.
//
//	socket ─▶ message ─▶ session ─▶ a worker for each started virtqueue
//	          (wire.go,   (session.go,  ring ─▶ request ─▶ disk.Queue ─▶ used ring
//	           proto.go)   vring.go)    (ring.go, parse.go, worker.go, finish.go)
//
// A worker is one goroutine: it alone touches the ring and the data. It never
// waits for storage. A fault in guest memory that was taken away (SIGBUS) ends
// the worker's queue, not the process; the session itself never touches guest
// memory. All is little-endian, as the machines are that this runs on.
package vhostuser
