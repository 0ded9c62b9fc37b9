/* Stands in for libnvidia-ml.so.1: three GPUs, of which this process may not use the second, and the third is cut
 * with MIG into two slices with an empty place between. Signatures and structs as in NVML's public nvml.h.
 * Pid 4242 keeps the third busy, pid 4243 only holds memory there; of a slice nothing but its memory is told.
 * NBE_FAKE_NVML_FAIL=<nvmlReturn_t> makes nvmlInit_v2 fail. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef WITH_NVML_H
#include <nvml.h>
#else
typedef int nvmlReturn_t;
typedef struct nvmlDevice_st *nvmlDevice_t;
typedef struct {
    char busIdLegacy[16];
    unsigned int domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} nvmlPciInfo_t;
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
typedef struct { unsigned int pid; unsigned long long usedGpuMemory; unsigned int gpuInstanceId, computeInstanceId; } nvmlProcessInfo_t;
typedef struct { unsigned int pid; unsigned long long timeStamp; unsigned int smUtil, memUtil, encUtil, decUtil; } nvmlProcessUtilizationSample_t;
typedef struct { unsigned int gpu, memory; } nvmlUtilization_t;
#endif

static int users = 0;
#define HANDLE(n) ((nvmlDevice_t)(0x7f0000000000ull + (n))) /* wider than an int: a cut pointer would show */
#define NUMBER(h) ((int)((unsigned long long)(h) - 0x7f0000000000ull))
#define CHECK if (users != 1) return 1

nvmlReturn_t nvmlInit_v2(void) {
    const char *fail = getenv("NBE_FAKE_NVML_FAIL");
    if (fail) return atoi(fail);
    users++;
    return 0;
}
nvmlReturn_t nvmlShutdown(void) { users--; return 0; }
nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) { CHECK; *count = 3; return 0; }
nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    CHECK;
    if (index == 1) return 4;
    *device = HANDLE(index);
    return 0;
}
nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length) {
    CHECK;
    int n = NUMBER(device);
    snprintf(uuid, length, n < 100 ? "GPU-0000000%d-aaaa-bbbb-cccc-dddddddddddd" : "MIG-00000%d-aaaa-bbbb-cccc-dddddddddddd", n);
    return 0;
}
nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length) {
    CHECK;
    snprintf(name, length, "%s", NUMBER(device) < 100 ? "NVIDIA H200" : "NVIDIA H200 MIG 1g.18gb");
    return 0;
}
nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci) {
    CHECK;
    memset(pci, 0xff, sizeof *pci);
    pci->domain = 0, pci->bus = 0x3b + NUMBER(device), pci->device = 0;
    strcpy(pci->busIdLegacy, "legacy");
    snprintf(pci->busId, sizeof pci->busId, "%08X:%02X:00.0", NUMBER(device) == 2 ? 0x10001u : 0u, pci->bus);
    return 0;
}
nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    CHECK;
    if (NUMBER(device) == 0) return 3; /* NVML_ERROR_NOT_SUPPORTED, as on machines with shared memory */
    memory->total = NUMBER(device) < 100 ? 150754820096ull : 17179869184ull, memory->free = 1, memory->used = 2;
    return 0;
}
nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending) {
    CHECK;
    if (NUMBER(device) == 0) return 3;
    *current = 1, *pending = 0;
    return 0;
}
nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count) {
    CHECK;
    *count = 3;
    return 0;
}
nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index, nvmlDevice_t *mig) {
    CHECK;
    if (index == 1) return 6; /* NVML_ERROR_NOT_FOUND */
    *mig = HANDLE(100 * NUMBER(device) + index);
    return 0;
}
nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
    CHECK;
    int n;
    if (sscanf(uuid, "GPU-%8d-", &n) != 1 && sscanf(uuid, "MIG-%8d-", &n) != 1) return 6;
    *device = HANDLE(n);
    return 0;
}
nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *rates) {
    CHECK;
    if (NUMBER(device) >= 100) return 3;
    rates->gpu = 97, rates->memory = 40;
    return 0;
}
nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *infos) {
    CHECK;
    if (NUMBER(device) >= 100) return 3;
    if (*count < 2) return 7; /* NVML_ERROR_INSUFFICIENT_SIZE */
    infos[0].pid = 4242, infos[0].usedGpuMemory = 5368709120ull;
    infos[1].pid = 4243, infos[1].usedGpuMemory = ~0ull; /* NVML_VALUE_NOT_AVAILABLE */
    *count = 2;
    return 0;
}
nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t *samples, unsigned int *count,
                                             unsigned long long since) {
    static unsigned long long now = 1ull << 60; /* later than any clock of today, in microseconds */
    CHECK;
    if (NUMBER(device) >= 100) return 3;
    if (since >= now) return 6; /* NVML_ERROR_NOT_FOUND: nothing new */
    if (*count < 3) return 7;
    memset(samples, 0, 3 * sizeof *samples);
    samples[0].pid = 4242, samples[0].timeStamp = now - 1, samples[0].smUtil = 80;
    samples[1].pid = 4242, samples[1].timeStamp = now, samples[1].smUtil = 90;
    samples[2].pid = 4242, samples[2].timeStamp = 1, samples[2].smUtil = 1; /* old ones come along */
    *count = 3;
    return 0;
}
