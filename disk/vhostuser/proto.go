package vhostuser

// Requests of a front end.
const (
	reqGetFeatures         = 1
	reqSetFeatures         = 2
	reqSetOwner            = 3
	reqResetOwner          = 4
	reqSetMemTable         = 5
	reqSetLogBase          = 6
	reqSetLogFD            = 7
	reqSetVringNum         = 8
	reqSetVringAddr        = 9
	reqSetVringBase        = 10
	reqGetVringBase        = 11
	reqSetVringKick        = 12
	reqSetVringCall        = 13
	reqSetVringErr         = 14
	reqGetProtocolFeatures = 15
	reqSetProtocolFeatures = 16
	reqGetQueueNum         = 17
	reqSetVringEnable      = 18
	reqSetBackendReqFD     = 21
	reqGetConfig           = 24
	reqSetConfig           = 25
	reqGetInflightFD       = 31
	reqSetInflightFD       = 32
	reqResetDevice         = 34
	reqGetMaxMemSlots      = 36
	reqAddMemReg           = 37
	reqRemMemReg           = 38
	reqSetStatus           = 39
	reqGetStatus           = 40

	backendConfigChange = 2 // our only request to the front end
)

// Flags of a message.
const (
	flagVersion   = 1
	flagVersions  = 3
	flagReply     = 1 << 2
	flagNeedReply = 1 << 3
)

// Protocol features.
const (
	protoMQ                = 1 << 0
	protoLogShmFD          = 1 << 1
	protoReplyAck          = 1 << 3
	protoBackendReq        = 1 << 5
	protoConfig            = 1 << 9
	protoInflightShmFD     = 1 << 12
	protoResetDevice       = 1 << 13
	protoConfigureMemSlots = 1 << 15
	protoStatus            = 1 << 16

	protoOffered = protoMQ | protoLogShmFD | protoReplyAck | protoBackendReq | protoConfig |
		protoInflightShmFD | protoResetDevice | protoConfigureMemSlots | protoStatus
)

// Features of VIRTIO, and the two that vhost adds.
const (
	blkSegMax      = 1 << 2
	blkSizeMax     = 1 << 1
	blkRO          = 1 << 5
	blkBlkSize     = 1 << 6
	blkFlush       = 1 << 9
	blkTopology    = 1 << 10
	blkConfigWCE   = 1 << 11
	blkMQ          = 1 << 12
	blkDiscard     = 1 << 13
	blkWriteZeroes = 1 << 14

	vhostLogAll    = 1 << 26
	ringIndirect   = 1 << 28
	ringEventIdx   = 1 << 29
	vhostProtocol  = 1 << 30
	virtioVersion1 = 1 << 32
)

const (
	statusNeedsReset = 64

	vringIndexMask = 0xff
	vringNoFD      = 1 << 8
	vringLog       = 1 << 0 // flag of SET_VRING_ADDR

	logPage = 4096
)

// Sizes of payloads in bytes.
const (
	headerSize    = 12
	memRegionSize = 32
	configHeader  = 12
	maxConfig     = 256
	maxTable      = 8 // regions of SET_MEM_TABLE
	maxPayload    = configHeader + maxConfig
)

// Limits of this back end.
const (
	// MaxQueues is the most virtqueues that a Server offers.
	MaxQueues = 64
	// MaxQueueSize is the most entries that a ring may have. QEMU allows no more.
	MaxQueueSize = 1024
	// MaxMemorySlots is how many regions guest memory may have.
	MaxMemorySlots = 128

	maxSegments = 126       // of data in one request, as drivers are told
	maxSegment  = 1 << 20   // bytes of one, as drivers are told
	maxData     = 128 << 20 // bytes of one request: more is an I/O error
	maxChain    = 1024      // descriptors of one request
)

// shape says how a message must look.
type shape struct {
	name     string
	min, max uint32 // bytes of payload
	fds      int    // most descriptors; whether they must be there depends on the payload
	proto    uint64 // protocol feature that must be negotiated
}

// shapes has all requests that are understood; others end the connection.
var shapes = [...]shape{
	reqGetFeatures:         {name: "GET_FEATURES"},
	reqSetFeatures:         {name: "SET_FEATURES", min: 8, max: 8},
	reqSetOwner:            {name: "SET_OWNER"},
	reqResetOwner:          {name: "RESET_OWNER"},
	reqSetMemTable:         {name: "SET_MEM_TABLE", min: 8, max: 8 + maxTable*memRegionSize, fds: maxTable},
	reqSetLogBase:          {name: "SET_LOG_BASE", min: 16, max: 16, fds: 1, proto: protoLogShmFD},
	reqSetLogFD:            {name: "SET_LOG_FD", max: 8, fds: 1},
	reqSetVringNum:         {name: "SET_VRING_NUM", min: 8, max: 8},
	reqSetVringAddr:        {name: "SET_VRING_ADDR", min: 40, max: 40},
	reqSetVringBase:        {name: "SET_VRING_BASE", min: 8, max: 8},
	reqGetVringBase:        {name: "GET_VRING_BASE", min: 8, max: 8},
	reqSetVringKick:        {name: "SET_VRING_KICK", min: 8, max: 8, fds: 1},
	reqSetVringCall:        {name: "SET_VRING_CALL", min: 8, max: 8, fds: 1},
	reqSetVringErr:         {name: "SET_VRING_ERR", min: 8, max: 8, fds: 1},
	reqGetProtocolFeatures: {name: "GET_PROTOCOL_FEATURES"},
	reqSetProtocolFeatures: {name: "SET_PROTOCOL_FEATURES", min: 8, max: 8},
	reqGetQueueNum:         {name: "GET_QUEUE_NUM"},
	reqSetVringEnable:      {name: "SET_VRING_ENABLE", min: 8, max: 8},
	reqSetBackendReqFD:     {name: "SET_BACKEND_REQ_FD", fds: 1, proto: protoBackendReq},
	reqGetConfig:           {name: "GET_CONFIG", min: configHeader, max: maxPayload, proto: protoConfig},
	reqSetConfig:           {name: "SET_CONFIG", min: configHeader, max: maxPayload, proto: protoConfig},
	// The C structure ends with four bytes that the specification does not have.
	reqGetInflightFD:  {name: "GET_INFLIGHT_FD", min: 20, max: 24, proto: protoInflightShmFD},
	reqSetInflightFD:  {name: "SET_INFLIGHT_FD", min: 20, max: 24, fds: 1, proto: protoInflightShmFD},
	reqResetDevice:    {name: "RESET_DEVICE", proto: protoResetDevice},
	reqGetMaxMemSlots: {name: "GET_MAX_MEM_SLOTS", proto: protoConfigureMemSlots},
	reqAddMemReg:      {name: "ADD_MEM_REG", min: 40, max: 40, fds: 1, proto: protoConfigureMemSlots},
	reqRemMemReg:      {name: "REM_MEM_REG", min: 40, max: 40, fds: 1, proto: protoConfigureMemSlots},
	reqSetStatus:      {name: "SET_STATUS", min: 8, max: 8, proto: protoStatus},
	reqGetStatus:      {name: "GET_STATUS", proto: protoStatus},
}
