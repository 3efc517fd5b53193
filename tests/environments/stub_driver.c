/* A driver without a GPU behind it, for the rows of the fallback matrix that need one to answer.
 * It is built without a C library; -D sets what it answers. */
#ifndef INIT
#define INIT 0
#endif
#ifndef VERSION
#define VERSION 13000
#endif
#ifndef GPUS
#define GPUS 1
#endif
#ifndef CAPABILITY
#define CAPABILITY 9
#endif

int cuInit(unsigned flags) { return INIT; }
int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
int cuDeviceGetCount(int *count) { *count = GPUS; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int length, int device) { name[0] = 'S'; name[1] = 0; return 0; }
int cuDeviceTotalMem_v2(unsigned long *bytes, int device) { *bytes = 8ul << 30; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? CAPABILITY : 0; return 0; }
/* ONNX Runtime's CUDA provider is not loaded where this one is missing. */
int cuTensorMapEncodeTiled(void) { return 999; }
